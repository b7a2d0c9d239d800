"""Run the stages whose work is split among ranks, under torchrun in a prepared folder."""

from __future__ import annotations

import importlib

from gear import params
from gear.core.ranks import leave_ranks

STAGES = ("features", "reference", "sample", "reconstruction", "evaluate", "codebook")

if __name__ == "__main__":
    for stage in STAGES:
        importlib.import_module(f"gear.stages.{stage}").run(params.load())
    leave_ranks()
