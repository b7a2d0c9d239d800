"""GEAR: joint training of a vector-quantised tokenizer and an autoregressive generator.

    tokenizer = gear.load_tokenizer("data/models/generator")
    tokens = tokenizer.encode(image)
    images = gear.load_generator("data/models/generator").sample(classes=["Food & Drink"])

docs/python.md has more. torch is imported when one of these is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gear.evaluation.frechet import distance as frechet_distance
    from gear.pretrained import ImageGenerator, ImageTokenizer, load_generator, load_tokenizer

    __version__: str

__all__ = [
    "ImageGenerator",
    "ImageTokenizer",
    "__version__",
    "frechet_distance",
    "load_generator",
    "load_tokenizer",
]

DISTRIBUTION = "gear-autoregression"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(DISTRIBUTION)
        except PackageNotFoundError:
            return "unknown"
    if name == "frechet_distance":
        return import_module("gear.evaluation.frechet").distance
    if name in __all__:
        return getattr(import_module("gear.pretrained"), name)
    raise AttributeError(f"module 'gear' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
