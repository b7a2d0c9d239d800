"""Test ingest and validate on small real inputs and on bad ones."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from gear import params as config
from gear import paths
from gear.core.errors import InputError
from gear.data.shards import encode_png, read_split, write_shards
from gear.stages import ingest, validate
from tests.support.datasets import picture, settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(tmp_path: Path, good: int = 6) -> Path:
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(good):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "root" / name / f"{number}.png")
    return tmp_path / "root"


def test_openmoji_twice_gives_the_same_bytes_and_passes_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(limit=64)
    ingest.run(chosen)
    first = {p: p.read_bytes() for p in sorted(paths.SHARDS.rglob("*")) if p.is_file()}
    shutil.rmtree(paths.SHARDS)
    ingest.run(chosen)
    assert first == {p: p.read_bytes() for p in sorted(paths.SHARDS.rglob("*")) if p.is_file()}
    train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
    assert len(train) + len(val) == 64
    assert set(train.labels) == set(val.labels) == set(range(8))
    assert train.images(np.array([3, 0])).shape == (2, 32, 32, 3)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    validate.run(chosen)
    assert [*temporary.iterdir()] == []
    summary = json.loads(paths.VALIDATION_METRICS.read_text())
    assert summary["passed"]
    assert summary["rows"] == 64
    assert summary["expectations"] >= 12
    assert (paths.DATA_DOCS / "index.html").exists()


def test_a_folder_with_bad_files_lists_them(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "cats" / "empty.png").touch()
    (root / "cats" / "text.png").write_text("not an image")
    whole = (root / "dogs" / "0.png").read_bytes()
    (root / "dogs" / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (9000, 9000)).save(root / "dogs" / "huge.png")
    ingest.run(settings(source="folder", root=str(root), max_reject_share=0.5, val_share=0.3))
    rejects = {
        r["file"]: r["reason"] for r in json.loads((paths.SHARDS / "rejects.json").read_text())
    }
    assert set(rejects) == {"cats/empty.png", "cats/text.png", "dogs/half.png", "dogs/huge.png"}
    assert rejects["cats/empty.png"] == "empty file"
    assert "megapixels" in rejects["dogs/huge.png"]
    with pytest.raises(
        config.InputError, match=r"4 of 16 files rejected, over data\.max_reject_share = 0\.1"
    ):
        ingest.run(settings(source="folder", root=str(root), max_reject_share=0.1, val_share=0.3))
    assert (paths.SHARDS / "manifest.json").exists(), "a failed ingest must leave the old shards"


@pytest.mark.parametrize("make", ["nothing", "empty", "empty class"])
def test_a_root_without_images_is_one_clear_line(tmp_path: Path, make: str) -> None:
    root = tmp_path / "root"
    if make == "empty":
        root.mkdir()
    if make == "empty class":
        folder(tmp_path)
        (root / "birds").mkdir()
    with pytest.raises(config.InputError, match=r"data\.root") as caught:
        ingest.run(settings(source="folder", root=str(root)))
    assert "\n" not in str(caught.value)


def test_a_changed_byte_stops_at_the_gate_and_names_the_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.run(settings(limit=64))
    file = next((paths.SHARDS / "train").glob("*.parquet"))
    rows = pq.ParquetFile(file).read().to_pylist()
    rows[5]["sha256"] = "0" * 64
    table = pq.ParquetFile(file).read()
    pq.write_table(
        type(table).from_pylist(rows, schema=table.schema),
        file,
        compression="none",
        row_group_size=64,
    )
    with pytest.raises(config.InputError, match="sha_ok"):
        validate.run(settings(limit=64))
    assert f"train/{rows[5]['key']}" in capsys.readouterr().out
    assert not json.loads(paths.VALIDATION_METRICS.read_text())["passed"]


def test_a_shard_that_is_not_parquet_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    ingest.run(settings(limit=64))
    shard = paths.SHARDS / "train" / "00000.parquet"
    table = pq.read_table(shard)
    shard.write_bytes(b"PAR1 not really")
    with pytest.raises(config.InputError, match=r"00000\.parquet: not a readable"):
        validate.run(settings())
    pq.write_table(table.drop(["sha256"]), shard)
    with pytest.raises(config.InputError, match="no column 'sha256'"):
        read_split(paths.SHARDS / "train")


def test_duplicates_under_other_names_and_mirrored_stay_on_one_side(tmp_path: Path) -> None:
    root = folder(tmp_path, good=12)
    for file in sorted(root.glob("*/*.png")):
        shutil.copy(file, file.with_name(f"copy-of-{file.name}"))
        with Image.open(file) as opened:
            mirrored = ImageOps.mirror(opened)
        mirrored.save(file.with_name(f"mirrored-{file.stem}.webp"), lossless=True)
    ingest.run(settings(source="folder", root=str(root), val_share=0.25))
    train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
    assert len(train) + len(val) == 72
    assert len(val) == 18

    def originals(keys: list[str]) -> set[str]:
        names = [Path(key).with_suffix("").as_posix() for key in keys]
        return {name.replace("copy-of-", "").replace("mirrored-", "") for name in names}

    assert not originals(train.keys) & originals(val.keys)
    validate.run(settings())


@pytest.mark.parametrize("change", [lambda image: image, ImageOps.mirror], ids=["same", "mirrored"])
def test_a_training_image_in_validation_closes_the_gate(
    tmp_path: Path, change: Callable[[Image.Image], Image.Image]
) -> None:
    ingest.run(settings(limit=64))
    file = next((paths.SHARDS / "val").glob("*.parquet"))
    rows = pq.ParquetFile(file).read().to_pylist()
    image = read_split(paths.SHARDS / "train").images(np.array([3]))[0]
    forged = encode_png(np.asarray(change(Image.fromarray(image))))
    rows[0] |= {"image": forged, "sha256": hashlib.sha256(forged).hexdigest()}
    file.unlink()
    write_shards(rows, file.parent)
    with pytest.raises(config.InputError, match="looks_like_training"):
        validate.run(settings())
    failed = [
        record["column"]
        for record in json.loads(paths.VALIDATION_METRICS.read_text())["results"]
        if not record["success"]
    ]
    same = change(Image.fromarray(image)).tobytes() == image.tobytes()
    assert failed == (["image_in_both_splits"] if same else []) + ["looks_like_training"]


@pytest.mark.parametrize("condition", ["class", "caption"])
def test_a_class_called_underscore_is_refused_only_as_a_caption(
    tmp_path: Path, condition: str
) -> None:
    for name in ("_", "cats"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(4):
            seed = number + 4 * (name == "_")
            (tmp_path / "root" / name / f"{number}.png").write_bytes(picture(seed))
    data = {"source": "folder", "root": str(tmp_path / "root"), "limit": 0}
    config = settings(**data, condition=condition, max_duplicate_captions=1.0)
    ingest.run(config)
    if condition == "caption":
        with pytest.raises(InputError, match=r"expect\w+\(caption_is_text\)"):
            validate.run(config)
    else:
        validate.run(config)
    results = json.loads(paths.VALIDATION_METRICS.read_text())["results"]
    of_text = next(one for one in results if one["column"] == "caption_is_text")
    assert of_text["unexpected"] == 4
    assert of_text["success"] == (condition == "class")
