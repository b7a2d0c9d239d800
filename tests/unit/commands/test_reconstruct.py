"""Test `gear reconstruct` and `gear encode` on files and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gear
from gear.cli import main
from gear.report.token_figure import error_map, token_sheet, token_tiles
from tests.support.hostile_images import huge_tile, many_scans
from tests.support.images import blotches
from tests.unit.test_pretrained import checkpoint

__all__ = ["checkpoint"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    one, other = blotches(0, count=2, size=40)
    Image.fromarray(one).save(folder / "one.png")
    Image.fromarray(other).resize((80, 60)).save(folder / "more/other.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_files_of_a_folder_are_encoded_by_name(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens.npz"
    assert main(["encode", str(photos), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    assert "2 images of 64 tokens" in capsys.readouterr().out
    with np.load(out) as found:
        assert [Path(name).name for name in found["names"]] == ["other.png", "one.png"]
        with Image.open(photos / "one.png") as image:
            expected = gear.load_tokenizer(checkpoint).encode(image)
        assert torch.equal(torch.from_numpy(found["tokens"][1:]).long(), expected)


def test_a_picture_shows_images_tokens_reconstructions_and_errors(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.png"
    words = ["reconstruct", str(photos / "one.png"), "--checkpoint", str(checkpoint)]
    assert main([*words, "--size", "64", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "one.png: " in said
    assert "different tokens of 256, PSNR" in said
    with Image.open(out) as picture:
        assert picture.width > 4 * 256


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no image: name image files"),
        (["missing.png"], "missing.png: no image that can be read: No such file"),
        (["photos/notes.txt"], "notes.txt: no image that can be read: no image of the formats"),
        (["scans.jpg"], "scans.jpg: no image that can be read: a JPEG of more than 100 scans"),
        (["tile.tif"], "tile.tif: no image that can be read: a TIFF of tiles of 32768x65520"),
        (["empty"], "empty: no image in this folder"),
        (["photos", "--size", "8000"], "--size 8000: take a multiple of 4 up to 2048"),
        (["photos"] * 40, "their picture would be 22"),
        (["photos", "--size", "30"], "--size 30: take a multiple of 4"),
        (["photos", "--checkpoint", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    checkpoint: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("empty").mkdir()
    Path("scans.jpg").write_bytes(many_scans(8000, 8000, 20_000))
    Path("tile.tif").write_bytes(huge_tile())
    if "--checkpoint" not in words:
        words = [*words, "--checkpoint", str(checkpoint)]
    assert main(["reconstruct", *words, "--out", "picture.png"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("picture.png").exists()


def test_equal_tokens_have_equal_colours_and_errors_are_dark() -> None:
    tokens = np.array([5, 5, 7, 511])
    tiles = token_tiles(tokens).reshape(4, 3)
    assert (tiles[0] == tiles[1]).all()
    assert len({tuple(tile) for tile in tiles.tolist()}) == 3
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 32, np.uint8)
    assert (error_map(black, black) == 255).all()
    assert (error_map(black, grey) == 128).all()
    sheet = np.asarray(token_sheet(["name"], grey[None], tokens[None], black[None]))
    assert (sheet == np.array([32, 32, 32])).all(-1).sum() >= 256 * 256
