"""Pictures of compared runs side by side: samples of the same seeds, and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gear.core.text import one_line
from gear.report.page import picture
from gear.runs.comparison import Arm, Run
from gear.runs.recorded_pictures import Reconstructions, Sample, sample_seed

SAMPLES = 16  # of a run, at most
RECONSTRUCTIONS = 8
COLUMNS = 8  # of a grid
SIDE = 128  # pixels of a picture, at most
SMOOTH = 64  # pixels above which a picture is scaled smoothly
NAME = 60  # characters of a class or caption that are shown
BUDGET = 1_000_000  # bytes of all samples, and of all reconstructions, on the page
SAME = 2.0  # maximum mean difference, of 255, between JPEGs of one image


@dataclass(frozen=True)
class RunPictures:
    """Available pictures of a run; `missing`: a line for each other one, with how to get it."""

    samples: list[Sample] = field(default_factory=list)
    reconstructions: Reconstructions | None = None
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """Pictures of one run as data URIs, under its arm's name."""

    name: str
    pictures: list[str]


@dataclass(frozen=True)
class Grid:
    """Rows of pictures with a heading over each column."""

    heads: list[str]
    rows: list[Row]
    smooth: bool

    def parts(self) -> list[Grid]:
        """Split the grid into grids of at most `COLUMNS` columns."""
        starts = range(0, len(self.heads), COLUMNS)
        return [
            Grid(
                self.heads[start : start + COLUMNS],
                [Row(row.name, row.pictures[start : start + COLUMNS]) for row in self.rows],
                self.smooth,
            )
            for start in starts
        ]


@dataclass(frozen=True)
class Section:
    """Grids under a title with a note."""

    title: str
    note: str
    grids: list[Grid]


def sample_sections(arms: Sequence[Arm], found: dict[str, RunPictures]) -> list[Section]:
    """Return a section for each training seed, with the first samples of all arms.

    If the page would be too large, there are fewer samples, and then fewer seeds.

    found: pictures of runs, by name of the run.
    """
    by_seed = {run.seed: _sample_grid(arms, found, run.seed) for arm in arms for run in arm.runs}
    grids = {seed: grid for seed, grid in by_seed.items() if grid is not None}
    count = _fitting(list(grids.values()), SAMPLES)
    left = BUDGET
    sections: list[Section] = []
    for seed, whole in grids.items():
        grid = _first(whole, count)
        left -= _size(grid)
        if left < 0 and sections:
            break
        note = f"The first {len(grid.heads)} samples, from the same seeds for all arms."
        if not sections and len(grid.heads) < len(whole.heads):
            note += " More would make this page too large."
        sections.append(Section(f"Samples of seed {seed}", note, grid.parts()))
    if len(sections) < len(grids):
        hidden = ", ".join(str(seed) for seed in list(grids)[len(sections) :])
        note = f"Not shown, since they would make this page too large: samples of seeds {hidden}."
        sections.append(Section("Other seeds", note, []))
    return sections


def _sample_grid(arms: Sequence[Arm], found: dict[str, RunPictures], seed: Any) -> Grid | None:
    """Return the samples of all runs of a seed; None if there are none."""
    runs = [(arm.label, run) for arm in arms for run in arm.runs if run.seed == seed]
    runs = [(label, run) for label, run in runs if found[run.name].samples]
    if not runs:
        return None
    first, samples = runs[0][1], found[runs[0][1].name].samples
    rows = [
        Row(label, [_small(one.pixels) for one in found[run.name].samples]) for label, run in runs
    ]
    return Grid(_heads(first, samples), rows, _is_smooth(samples[0].pixels))


def reconstruction_section(arms: Sequence[Arm], found: dict[str, RunPictures]) -> Section | None:
    """Return the originals and the reconstructions of the first run of each arm that has any.

    Arms whose reports show other images than the first arm's are left out, and listed.
    """
    known = [
        (arm.label, rebuilt)
        for arm in arms
        for rebuilt in [_first_rebuilt(arm, found)]
        if rebuilt is not None
    ]
    if not known:
        return None
    originals = known[0][1].originals
    fit = [(label, one) for label, one in known if _are_same(originals, one.originals)]
    others = [label for label, one in known if not _are_same(originals, one.originals)]
    rows = [Row("original", [_small(image) for image in originals])]
    rows += [Row(label, [_small(image) for image in one.copies]) for label, one in fit]
    heads = [f"image {number}" for number in range(1, len(originals) + 1)]
    grid = Grid(heads, rows, _is_smooth(originals[0]))
    grid = _first(grid, _fitting([grid], RECONSTRUCTIONS))
    note = "Validation images, and what the tokenizer of each arm's first run makes of them."
    note += "".join(f" {name}" for name in equal_names({label: one.copies for label, one in fit}))
    if others:
        note += f" Not shown, since other images are in the report: {', '.join(others)}."
    return Section("Reconstructions", note, grid.parts())


def equal_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """Return a sentence for each group of names whose arrays are equal.

    >>> equal_names({"a": np.ones(2), "b": np.zeros(2), "c": np.ones(2)})
    ['c equals a.']
    """
    groups: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, array in arrays.items():
        groups.setdefault((array.shape, array.tobytes()), []).append(name)
    return [
        f"{' and '.join(others)} equal{'s' if len(others) == 1 else ''} {first}."
        for first, *others in groups.values()
        if others
    ]


def missing_lines(arms: Sequence[Arm], found: dict[str, RunPictures]) -> list[str]:
    """Return the lines on missing pictures of all runs."""
    return [line for arm in arms for run in arm.runs for line in found[run.name].missing]


def _heads(run: Run, samples: list[Sample]) -> list[str]:
    """Return the class or caption and the seed of each sample."""
    protocols = (str(record["protocol"].get("seeds", "")) for record in run.records.values())
    words = next((text for text in protocols if sample_seed(text, 0) is not None), "")
    heads = []
    for number, sample in enumerate(samples):
        seed = sample_seed(words, number)
        where = (
            f"sample\N{NO-BREAK SPACE}{number}" if seed is None else f"seed\N{NO-BREAK SPACE}{seed}"
        )
        name = one_line(sample.caption, NAME) or f"class {sample.label}"
        heads.append(f"{name}, {where}")
    return heads


def _first_rebuilt(arm: Arm, found: dict[str, RunPictures]) -> Reconstructions | None:
    return next((one for run in arm.runs if (one := found[run.name].reconstructions)), None)


def _are_same(first: np.ndarray, other: np.ndarray) -> bool:
    if first.shape != other.shape:
        return False
    return bool(np.abs(first.astype(float) - other).mean() < SAME)


def _is_smooth(pixels: np.ndarray) -> bool:
    return bool(pixels.shape[0] > SMOOTH)


def _small(pixels: np.ndarray) -> str:
    """Return pixels as a data URI of at most `SIDE` pixels a side."""
    if max(pixels.shape[:2]) <= SIDE:
        return picture(pixels)
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture(np.asarray(image))


def _size(grid: Grid) -> int:
    return sum(len(uri) for row in grid.rows for uri in row.pictures)


def _first(grid: Grid, count: int) -> Grid:
    rows = [Row(row.name, row.pictures[:count]) for row in grid.rows]
    return Grid(grid.heads[:count], rows, grid.smooth)


def _fitting(grids: Sequence[Grid], most: int) -> int:
    """Return how many columns of all grids fit into the budget: `most`, or a half, a quarter …"""
    count = most
    while count > 1 and sum(_size(_first(grid, count)) for grid in grids) > BUDGET:
        count //= 2
    return count
