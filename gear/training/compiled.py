"""Compile the repeated blocks of models with `torch.compile`, for `host.compile`."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from gear.core.errors import InputError

VARIANTS = 128  # compiled versions of a block: widths x resolutions x with or without gradients


def compile_parts(module: nn.Module) -> None:
    """Compile each block of a model in place; the names of its weights do not change.

    Blocks are the modules with the attribute `compiles_alone`.

    The decoder's last layer is in none of them: `adaptive_weight` takes a gradient there, and a
    compiled block computes all of its gradients or none.

    Raises:
        InputError: if there is no C++ compiler.
    """
    require_compiler()
    torch._dynamo.config.recompile_limit = VARIANTS
    for part in module.modules():
        if getattr(part, "compiles_alone", False):
            part.compile(dynamic=False)


def require_compiler() -> None:
    """Check that there is a C++ compiler, which `torch.compile` needs on any device.

    Raises:
        InputError: if there is none; the message says how to install it.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"host.compile needs a C++ compiler, and there is no {compiler}: install it "
            "(Debian: apt-get install g++), or set host.compile to false"
        )


def is_compiled(module: nn.Module) -> bool:
    """Return whether `compile_parts` has compiled a block of a model."""
    return any(part._compiled_call_impl is not None for part in module.modules())
