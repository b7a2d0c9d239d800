"""Temperature of the soft assignment: as set, or calibrated to an effective support."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from gear.core.errors import InputError
from gear.joint.config import SUPPORT_LIMIT, SupportConfig
from gear.tokenizer.model import Tokenizer

COLDEST, HOTTEST, HALVINGS = 1e-5, 1e4, 50


def find_temperature(
    wanted: float | SupportConfig, tokenizer: Tokenizer, images_BCHW: torch.Tensor
) -> float:
    """Return the temperature that `joint.temperature` asks for; the same on all ranks.

    Args:
        wanted: A temperature, or a support to calibrate one to.
        tokenizer: The tokenizer.
        images_BCHW: Images to calibrate on, in [-1, 1].

    Raises:
        InputError: if the support is not over 1 and under 0.99 of the codebook size.
    """
    if not isinstance(wanted, SupportConfig):
        return wanted
    with torch.inference_mode():
        assignment = tokenizer.encode(images_BCHW).assignment
    if not 1.0 < wanted.support < SUPPORT_LIMIT * assignment.codes:
        raise InputError(
            f"joint.temperature.support = {wanted.support}: "
            f"must lie over 1 and under {SUPPORT_LIMIT} x {assignment.codes} codes"
        )
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(HALVINGS):  # the support rises with the temperature
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if assignment.support(math.exp(middle)) < wanted.support
            else (low, middle)
        )
    found = torch.tensor(
        float(f"{math.exp(high):.6g}"), dtype=torch.float64, device=images_BCHW.device
    )
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(found, 0)
    return found.item()
