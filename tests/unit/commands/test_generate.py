"""Test that images of `gear generate` depend on their seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gear.cli import main
from tests.support.layouts import generator, tokenizer


def test_generate_draws_the_same_image_whatever_else_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    torch.save(tokenizer("llamagen").state_dict(), tmp_path / "t.pt")
    torch.save(generator().state_dict(), tmp_path / "g.pt")
    for name in ("t", "g"):
        assert (
            main(
                [
                    "import",
                    str(tmp_path / f"{name}.pt"),
                    str(tmp_path / "c"),
                    "--heads",
                    "2",
                    "--grid",
                    "4",
                ]
            )
            == 0
        )
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    common = ["generate", "--checkpoint", str(tmp_path / "c"), "--guidance", "2"]
    assert main([*common, "--classes", "3", "--each", "2", "--out", str(few)]) == 0
    assert main([*common, "--classes", "3", "1", "--each", "4", "--out", str(many)]) == 0
    assert "8 images of 2 classes" in capsys.readouterr().out
    with Image.open(few) as one, Image.open(many) as other:
        assert other.crop((0, 0, *one.size)).tobytes() == one.tobytes()
    assert main([*common, "--classes", "9", "--out", str(few)]) == 2
    assert "--classes '9': there are 5" in capsys.readouterr().err
    assert main([*common, "--guidance", "0.5", "--out", str(few)]) == 2
    assert "--guidance: Input should be greater than or equal to 1" in capsys.readouterr().err
