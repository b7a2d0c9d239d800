"""Test that images of recorded runs are those that the stages wrote, or one line if damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gear.core.errors import InputError
from gear.data.shards import write_samples
from gear.runs.recorded_pictures import first_samples, reconstructions
from gear.runs.revision import MissingContentError, Revision
from tests.support.runs import toy_run
from tests.unit.report.test_page import EVIL, reconstructed, render


@pytest.fixture
def workspace(tmp_path: Path) -> Revision:
    return Revision("workspace", "", toy_run(tmp_path / "checkout"))


def test_samples_are_the_first_of_the_run(workspace: Revision) -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 3)).astype(np.uint8)
    captions = [f"caption {i}" for i in range(600)]
    folder = workspace.root / "data/samples"
    write_samples(images, np.arange(600), captions, folder)
    write_samples(255 - images, np.arange(600), captions, folder / "prompts")
    samples = first_samples(workspace, 5)
    assert [(one.label, one.caption) for one in samples] == [(i, f"caption {i}") for i in range(5)]
    assert (np.stack([one.pixels for one in samples]) == images[:5]).all()
    (folder / "00000.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(
        InputError, match=r"data/samples/00000\.parquet of workspace cannot be read"
    ):
        first_samples(workspace, 5)


def test_reconstructions_are_those_of_the_report(workspace: Revision) -> None:
    (workspace.root / "reports/index.html").write_text(render(count=14, size=8))
    made = reconstructed(14, 8, 8)
    found = reconstructions(workspace, 8, 10)
    assert (found.originals == made.originals[:10]).all()
    assert (found.copies == made.copies[:10]).all()


@pytest.mark.parametrize(
    "page",
    [
        "",
        f"<p>{EVIL}",
        '<figure class="compare"><img src="https://example.org/a.png"><img></figure>',
        '<figure class="compare"><img src="data:image/png;base64,AAAA"><img src="data:,"></figure>',
        render(count=3, size=12),
    ],
)
def test_a_report_without_such_pictures_is_one_line(workspace: Revision, page: str) -> None:
    (workspace.root / "reports/index.html").write_text(page)
    with pytest.raises(
        InputError, match=r"reports/index\.html of workspace cannot be read: "
    ) as said:
        reconstructions(workspace, 8, 10)
    assert "\n" not in str(said.value)


def test_what_was_never_made_is_missing(workspace: Revision) -> None:
    for read in (lambda: first_samples(workspace, 5), lambda: reconstructions(workspace, 8, 5)):
        with pytest.raises(MissingContentError, match="of workspace is not in DVC's cache"):
            read()
