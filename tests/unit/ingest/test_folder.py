"""Test folders of images: class folders, flat ones, and mixtures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from gear import paths
from gear.core.errors import InputError
from gear.data.shards import read_split
from gear.ingest.folder import IMAGE_ENDINGS, image_folder
from gear.ingest.image_headers import FORMATS
from gear.ingest.records import EncodedSample, Reject
from gear.stages import ingest
from tests.support.datasets import picture, settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flat(root: Path, count: int = 6) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / f"{number}.png").write_bytes(picture(number))
    return root


def samples(root: Path) -> list[EncodedSample]:
    return [item for item in image_folder(root) if isinstance(item, EncodedSample)]


def test_a_flat_folder_is_one_class_with_the_folder_s_name() -> None:
    flat(Path("my_birds"))
    (Path("my_birds") / "notes.txt").write_text("not an image")
    found = samples(Path("my_birds"))
    assert [item.key for item in found] == [f"{number}.png" for number in range(6)]
    assert {(item.category, item.caption) for item in found} == {("my_birds", "my birds")}


@pytest.mark.parametrize("path", [".", "inner/.."])
def test_a_flat_folder_without_a_name_is_called_images(path: str) -> None:
    Path("inner").mkdir()
    Path("inner").rename(".inner")  # hidden, so that the folder stays flat
    flat(Path())
    found = samples(Path(path.replace("inner", ".inner")))
    assert {item.category for item in found} == {"images"}


def test_captions_of_a_flat_folder() -> None:
    root = flat(Path("birds"))
    (root / "metadata.jsonl").write_text('{"file_name": "3.png", "text": "a robin"}\n')
    assert [item.caption for item in samples(root)].count("a robin") == 1
    assert samples(root)[3].caption == "a robin"


def test_rejects_of_captions_are_in_order() -> None:
    """Sets of texts have another order in each process."""
    root = flat(Path("birds"))
    lines = [json.dumps({"file_name": f"absent-{n}.png", "text": "x"}) for n in range(9)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    rejects = [item.file for item in image_folder(root) if isinstance(item, Reject)]
    assert rejects == sorted(rejects)
    assert len(rejects) == 9


def test_captions_of_a_file_that_is_refused_are_not_used() -> None:
    root = flat(Path("birds"))
    line = '{"file_name": "3.png", "text": "a robin"}\n'
    Path("outside.jsonl").write_text(line)
    (root / "metadata.jsonl").symlink_to(Path("outside.jsonl").absolute())
    assert {item.caption for item in samples(root)} == {"birds"}
    (root / "metadata.jsonl").unlink()
    os.mkfifo(root / "metadata.jsonl")  # reading it would wait for ever
    assert {item.caption for item in samples(root)} == {"birds"}


def test_images_beside_class_folders_are_rejects() -> None:
    root = flat(Path("birds"), count=2)
    flat(root / "robins")
    assert {item.category for item in samples(root)} == {"robins"}
    rejects = [item for item in image_folder(root) if isinstance(item, Reject)]
    assert [item.file for item in rejects] == ["0.png", "1.png"]


def test_flat_folders_take_every_format_that_can_be_decoded() -> None:
    kinds = Image.registered_extensions()
    assert {kinds[ending] for ending in IMAGE_ENDINGS} == set(FORMATS)


def test_a_folder_without_images_is_refused() -> None:
    Path("empty").mkdir()
    (Path("empty") / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match="holds no <class>/<file>"):
        samples(Path("empty"))


def test_what_cannot_be_read_in_a_flat_folder_is_a_reject() -> None:
    root = flat(Path("birds"))
    (root / "gone.png").symlink_to("nowhere.png")
    rejects = [item for item in image_folder(root) if isinstance(item, Reject)]
    assert [(item.file, item.reason) for item in rejects] == [("gone.png", "a link to nothing")]


def test_shards_of_a_flat_folder_have_one_label() -> None:
    flat(Path("birds"), count=12)
    ingest.run(settings(source="folder", root="birds", limit=0))
    manifest = json.loads((paths.SHARDS / "manifest.json").read_text())
    assert manifest["classes"] == ["birds"]
    assert manifest["train"] + manifest["val"] == 12
    assert set(read_split(paths.SHARDS / "train").labels.tolist()) == {0}
