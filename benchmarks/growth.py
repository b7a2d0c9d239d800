"""Measure how costs grow with sizes: `python -m benchmarks.growth`.

One size is varied at a time. The last column is the exponent of the growth: near 1, twice the size
takes twice the time; below 1, a fixed cost is shared; above 1, cost grows faster than the size.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import time_preset
from gear.core.memory import keep_freed_memory
from gear.data.near_twins import near_twins, thumbnail
from gear.generator.config import GeneratorShape, SampleConfig
from gear.generator.sampling import sample, sample_seeds
from gear.generator.transformer import Generator
from gear.params import Config, load_preset

STEPS = 3


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    values = config.model_dump()
    for name, changes in sections.items():
        values[name] |= changes
    return Config.model_validate(values)


def step_seconds(config: Config, batch: int) -> float:
    return time_preset(config, batch, STEPS)[0]


def sampling_seconds(config: Config, count: int) -> float:
    torch.manual_seed(0)
    shape = GeneratorShape.pick(config.generator.model_dump())
    generator = Generator(shape, codes=config.tokenizer.codes, grid=config.grid, classes=8).eval()
    labels, settings = torch.arange(count) % 8, SampleConfig(n=count)
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        sample(generator, labels, sample_seeds(0, count), settings)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def twin_seconds(count: int) -> float:
    """Return the seconds of a search for near-twins among `count` images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    began = time.perf_counter()
    near_twins(thumbnail(images), lambda rows: images[rows])
    return time.perf_counter() - began


def cases() -> Iterator[tuple[str, list[float], Callable[[float], float]]]:
    """Yield the name of each case, its sizes, and a function from a size to seconds."""
    quick = load_preset("quickstart")
    yield "joint step, images a step", [16, 32, 64], lambda n: step_seconds(quick, int(n))
    yield (
        "joint step, tokens an image (image side 16, 32, 64)",
        [16, 64, 256],
        lambda n: step_seconds(changed(quick, data={"size": 4 * math.isqrt(int(n))}), 16),
    )
    yield (
        "joint step, codes K",
        [512, 2048, 8192],
        lambda k: step_seconds(changed(quick, tokenizer={"codes": int(k)}), 16),
    )
    yield (
        "joint step, width of the generator",
        [96, 192, 384],
        lambda d: step_seconds(changed(quick, generator={"width": int(d)}), 16),
    )
    yield "sampling, images", [48, 96, 192], lambda n: sampling_seconds(quick, int(n))
    yield (
        "sampling, tokens an image",
        [64, 256],
        lambda n: sampling_seconds(changed(quick, data={"size": 4 * math.isqrt(int(n))}), 48),
    )
    yield "near-twin search, images", [4000, 8000, 16000], lambda n: twin_seconds(int(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases with this word in their name")
    options = parser.parse_args()
    keep_freed_memory()
    print("| what grows | sizes | seconds | power of the size |\n|---|---|---|---|")
    for name, sizes, seconds_at in cases():
        if options.only not in name:
            continue
        seconds = [seconds_at(size) for size in sizes]
        power = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
        shown = ", ".join(f"{one:.3g}" for one in seconds)
        print(
            f"| {name} | {', '.join(f'{s:g}' for s in sizes)} | {shown} | {power:.2f} |", flush=True
        )
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nmost memory of the process: {most:.1f} GiB")


if __name__ == "__main__":
    main()
