"""Recipes: which losses reach which module. docs/recipes.md compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """What the joint stage trains, and with which losses."""

    tokenizer_trains: bool  # its own loss, L_tok, reaches the tokenizer
    hard_alignment: bool = True  # the alignment loss of hard tokens reaches the generator
    readout: Literal["none", "soft", "straight_through"] = (
        "none"  # how alignment reaches the tokenizer, if it does
    )
    ntp_to_tokenizer: bool = False  # next-token loss reaches it too, through the same read-out


RECIPES = {
    "gear": Recipe(tokenizer_trains=True, readout="soft"),
    "soft_hard_forward": Recipe(tokenizer_trains=True, readout="straight_through"),
    "llamagen_repa": Recipe(tokenizer_trains=False),
    "llamagen": Recipe(tokenizer_trains=False, hard_alignment=False),
    "continued": Recipe(tokenizer_trains=True),
    "ste": Recipe(tokenizer_trains=True, readout="straight_through", ntp_to_tokenizer=True),
}
