"""Test that images of `gear generate` depend on their seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gear.cli import main
from gear.pretrained import ImageGenerator
from tests.support.layouts import generator, tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a folder of an imported tokenizer and generator, of 16 pixels a side."""
    torch.save(tokenizer("llamagen").state_dict(), tmp_path / "t.pt")
    torch.save(generator().state_dict(), tmp_path / "g.pt")
    for name in ("t", "g"):
        words = ["import", str(tmp_path / f"{name}.pt"), str(tmp_path / "c")]
        assert main([*words, "--heads", "2", "--grid", "4"]) == 0
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("out", "each", "message"),
    [
        ("x.webp", 250, "a .webp has at most 16383 pixels a side"),
        ("x.JPG", 1000, "a .jpg has at most 65500 pixels a side"),
    ],
)
def test_a_picture_too_large_for_its_format_is_refused_before_sampling(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    each: int,
    message: str,
) -> None:
    def draw(*arguments: object) -> None:
        pytest.fail("it sampled")

    monkeypatch.setattr(ImageGenerator, "draw", draw)
    words = ["generate", "--checkpoint", str(checkpoint), "--classes", "0", "--each", str(each)]
    assert main([*words, "--out", str(tmp_path / out)]) == 2
    line = capsys.readouterr().err
    assert f"{130 + each * 66}x66 pixels: {message}" in line
    assert "write a .png" in line
    assert line.count("\n") == 1


def test_generate_draws_the_same_image_whatever_else_is_drawn(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    few, many = tmp_path / "few.png", tmp_path / "many.png"
    common = ["generate", "--checkpoint", str(checkpoint), "--guidance", "2"]
    assert main([*common, "--classes", "3", "--each", "2", "--out", str(few)]) == 0
    assert main([*common, "--classes", "3", "1", "--each", "4", "--out", str(many)]) == 0
    assert "8 images of 2 classes" in capsys.readouterr().out
    with Image.open(few) as one, Image.open(many) as other:
        assert other.crop((0, 0, *one.size)).tobytes() == one.tobytes()
    assert main([*common, "--classes", "9", "--out", str(few)]) == 2
    assert "--classes '9': there are 5" in capsys.readouterr().err
    assert main([*common, "--guidance", "0.5", "--out", str(few)]) == 2
    assert "--guidance: Input should be greater than or equal to 1" in capsys.readouterr().err
