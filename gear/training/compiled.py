"""`host.compile`: the parts of models that repeat, compiled by `torch.compile`."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from gear.core.errors import InputError

VARIANTS = 128  # compiled versions of a part: widths x resolutions x whether weights get gradients


def compile_parts(module: nn.Module) -> None:
    """Compile a model's blocks, each by itself; names of weights stay as they are.

    Blocks are the modules with the attribute `compiles_alone`.

    The decoder's last layer is in none of them: `adaptive_weight` takes a gradient there, and a
    compiled part computes all of its gradients or none.

    Raises:
        InputError: if there is no C++ compiler, which `torch.compile` needs on any device.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"host.compile needs a C++ compiler, and there is no {compiler}: install it "
            "(Debian: apt-get install g++), or set host.compile to false"
        )
    torch._dynamo.config.recompile_limit = VARIANTS
    for part in module.modules():
        if getattr(part, "compiles_alone", False):
            part.compile(dynamic=False)


def is_compiled(module: nn.Module) -> bool:
    """Return whether `compile_parts` was called on a model that has such parts."""
    return any(part._compiled_call_impl is not None for part in module.modules())
