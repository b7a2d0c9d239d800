"""Recipes as data: which losses reach which module (GEAR, Recipes)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What the joint stage trains, and with which losses."""

    tokenizer_trains: bool  # L_tok reaches the tokenizer
    soft_alignment: bool  # the soft read-out's alignment reaches the tokenizer


RECIPES = {
    "gear": Recipe(tokenizer_trains=True, soft_alignment=True),
    "llamagen_repa": Recipe(tokenizer_trains=False, soft_alignment=False),
}
