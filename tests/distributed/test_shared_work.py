"""Test that several ranks write the same features, samples and metrics as one rank."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed import shared_work
from tests.support.commands import ENV
from tests.support.settings import edit_params

OUTPUTS = (
    "data/features",
    "data/reference",
    "data/inception",
    "data/samples",
    "reports/samples.png",
    "reports/reconstruction.json",
    "reports/metrics.json",
    "reports/protocols.json",
    "reports/nearest-training.json",
    "reports/codebook-details.json",
)


def files(cwd: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the relative name and the content of each file that the stages wrote."""
    for output in OUTPUTS:
        path = cwd / output
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield str(file.relative_to(cwd)), file.read_bytes()


def measured(prepared: Path, cwd: Path, ranks: int) -> dict[str, bytes]:
    """Run the stages with a number of ranks; return the content of all outputs."""
    shutil.copytree(prepared, cwd)
    shutil.rmtree(cwd / "data/features")
    shutil.rmtree(cwd / "data/reference")
    shutil.rmtree(cwd / "data/inception")
    shutil.copytree(cwd / "data/models/joint", cwd / "data/models/generator")
    # 100 samples in batches of 16: the 7 batches do not divide evenly among ranks
    edit_params(cwd, host={"sample_batch": 16}, sample={"n": 100, "grid_guidance": 3.0})
    edit_params(cwd, evaluate={"guidances": [1.5], "guidance_n": 50})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc_per_node={ranks}", shared_work.__file__]
    done = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("sampled 100/100") == 1, "rank zero alone reports"
    return dict(files(cwd))


@pytest.fixture(scope="module")
def one(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return measured(prepared, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.mark.parametrize("ranks", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_any_number_of_ranks_writes_the_same_bytes(
    prepared: Path, one: dict[str, bytes], tmp_path: Path, ranks: int
) -> None:
    assert {name.split("/")[1] for name in one} >= {"features", "reference", "samples"}
    several = measured(prepared, tmp_path / "run", ranks)
    assert several.keys() == one.keys()
    assert [name for name in one if several[name] != one[name]] == []
