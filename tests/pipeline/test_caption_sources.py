"""Test ingest of captions from WebDataset shards, Hugging Face datasets and image folders."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from gear import paths
from gear.core.errors import InputError
from gear.data.shards import load_manifest, read_split
from gear.stages import ingest, validate
from tests.support.datasets import good, picture, settings, write_tar


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def captioned(root: Path, source: str = "webdataset", **more: object) -> object:
    return settings(source=source, root=str(root), condition="caption", val_share=0.25, **more)


def test_a_webdataset_with_bad_members_keeps_the_good_and_names_the_bad(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tar(root / "00.tar", good())
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, format="PNG")
    bad = [
        ("../outside.png", picture(1)),
        ("/etc/outside.png", picture(2)),
        ("nocaption.png", picture(3)),
        ("noimage.json", b'{"caption": "x"}'),
        ("notjson.png", picture(4)),
        ("notjson.json", b"{"),
        ("deep.png", picture(4)),
        ("deep.json", b"[" * 100_000),
        ("latin.png", picture(5)),
        ("latin.txt", "se\u00f1or".encode("latin-1")),
        ("bomb.png", bomb.getvalue()),
        ("bomb.txt", b"a bomb"),
        ("text.png", b"not a picture"),
        ("text.txt", b"says it is one"),
        ("fine.png", picture(6)),
        ("fine.txt", b"  a caption\n in a text file "),
        ("fine.cls", b"cat"),
    ]
    write_tar(root / "01.tar", bad)
    with tarfile.open(root / "02.tar", "w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "link.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.CHRTYPE, "device.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("large.png")
        member.size = 65 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    write_tar(root / "03.tar", good(4))
    whole = (root / "03.tar").read_bytes()
    third = whole.index(b"0002.webp")
    (root / "03.tar").write_bytes(whole[: third + 700])  # cut in the third picture
    ingest.run(captioned(root, max_reject_share=0.9))
    rejects = {
        r["file"]: r["reason"] for r in json.loads((paths.SHARDS / "rejects.json").read_text())
    }
    assert set(rejects) == {
        *(
            "01.tar/../outside.png",
            "01.tar//etc/outside.png",
            "01/nocaption",
            "01/noimage",
            "01/notjson",
            "01/deep",
            "01/latin",
        ),
        *(
            "01/bomb",
            "01/text",
            "02.tar/link.png",
            "02.tar/hard.png",
            "02.tar/device.png",
            "02.tar/large.png",
            "03.tar",
        ),
    }
    assert "leads out" in rejects["01.tar/../outside.png"]
    assert "megapixels" in rejects["01/bomb"]
    assert "UTF-8" in rejects["01/latin"]
    assert rejects["02.tar/link.png"] == "a link"
    assert "64 MiB" in rejects["02.tar/large.png"]
    assert "broken" in rejects["03.tar"]
    train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
    captions = {
        **dict(zip(train.keys, train.captions, strict=True)),
        **dict(zip(val.keys, val.captions, strict=True)),
    }
    assert len(captions) == 24 + 1 + 2
    assert captions["01/fine"] == "a caption in a text file"
    assert captions["00/0003"] == "picture number 3"
    assert load_manifest(paths.SHARDS)["classes"] == ["cat", "dog"]
    assert not list(tmp_path.rglob("outside.png"))
    assert not Path("/etc/outside.png").exists()
    validate.run(captioned(root))


def test_the_same_key_twice_in_an_archive_is_kept_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "root" / "00.tar", good(8) + good(8))
    ingest.run(captioned(tmp_path / "root", max_reject_share=0.6))
    assert {r["reason"] for r in json.loads((paths.SHARDS / "rejects.json").read_text())} == {
        "its key came before"
    }


def test_a_hugging_face_dataset_on_disk(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": picture(n), "path": None} for n in range(12)]
        + [{"bytes": b"no", "path": None}],
        "text": [f"caption {n}" for n in range(12)] + ["broken"],
        "label": [n % 2 for n in range(13)],
    }
    label = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": label}
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(
        InputError, match=r"no column 'caption', it has image, text, label: see data\.caption_key"
    ):
        ingest.run(captioned(tmp_path / "one", "huggingface"))
    ingest.run(captioned(tmp_path / "one", "huggingface", caption_key="text", max_reject_share=0.2))
    assert load_manifest(paths.SHARDS)["classes"] == ["a", "b"]
    train = read_split(paths.SHARDS / "train")
    assert all(
        caption == f"caption {int(key[-2:])}"
        for key, caption in zip(train.keys, train.captions, strict=True)
    )
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(InputError, match="holds the splits train, test"):
        ingest.run(captioned(tmp_path / "two", "huggingface", caption_key="text"))
    with pytest.raises(InputError, match=r"data\.root: .* no dataset"):
        ingest.run(captioned(tmp_path / "nothing", "huggingface"))


def test_a_hugging_face_dataset_of_classes_needs_no_captions(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["red_fox", "b"])}
    )
    images = [{"bytes": picture(n), "path": None} for n in range(12)]
    rows = {"image": images, "label": [n % 2 for n in range(12)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "one"))
    config = captioned(tmp_path / "one", "huggingface")
    ingest.run(config)
    assert load_manifest(paths.SHARDS)["train"] + load_manifest(paths.SHARDS)["val"] == 12
    assert set(read_split(paths.SHARDS / "train").captions) == {"red fox", "b"}


def test_archives_of_classes_need_no_captions(tmp_path: Path) -> None:
    members = [(f"{n:02d}.jpg", picture(n)) for n in range(12)]
    members += [(f"{n:02d}.cls", f"{n % 2}".encode()) for n in range(12)]
    write_tar(tmp_path / "root/00.tar", sorted(members))
    ingest.run(captioned(tmp_path / "root", "webdataset"))
    assert load_manifest(paths.SHARDS)["classes"] == ["0", "1"]
    assert set(read_split(paths.SHARDS / "train").captions) == {"0", "1"}


def test_captions_beside_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            (root / name / f"{number}.png").write_bytes(picture(number))
    lines = [
        json.dumps({"file_name": f"{name}/{n}.png", "text": f"{name} {n}"})
        for name in ("cats", "dogs")
        for n in range(4)
    ]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    ingest.run(captioned(root, "folder"))
    train = read_split(paths.SHARDS / "train")
    assert all(
        caption == key.replace("/", " ").removesuffix(".png")
        for key, caption in zip(train.keys, train.captions, strict=True)
    )
    (root / "metadata.jsonl").write_text('{"file": "x"}')
    with pytest.raises(InputError, match=r"metadata\.jsonl line 1"):
        ingest.run(captioned(root, "folder"))


@pytest.mark.parametrize(
    ("caption", "column"),
    [
        ("", "no caption"),
        ("x" * 3000, "its caption has 3000 characters"),
        ("an \x1b[31m escape", "its caption has the control character U+001B"),
        ("a \u202e override", "its caption has the control character U+202E"),
        ("bad \ufffd bytes", "caption_is_text"),
        ("always the same", "caption"),
    ],
)
def test_bad_captions_are_rejects_or_shut_the_gate(
    tmp_path: Path, caption: str, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [(f"{n:02d}.png", picture(n)) for n in range(8)] + [
        (f"{n:02d}.txt", f"caption {n}".encode()) for n in range(8)
    ]
    members = sorted(members)
    changed = range(6) if column == "caption" else [2]
    members = [
        (name, caption.encode() if name.endswith(".txt") and int(name[:2]) in changed else content)
        for name, content in members
    ]
    write_tar(tmp_path / "root" / "00.tar", members)
    ingest.run(captioned(tmp_path / "root", max_reject_share=0.2))
    rejects = json.loads((paths.SHARDS / "rejects.json").read_text())
    if " " in column:
        assert rejects[0]["reason"].startswith(column)
        validate.run(captioned(tmp_path / "root"))
        return
    with pytest.raises(InputError, match=rf"\({column}\)"):
        validate.run(captioned(tmp_path / "root"))


def test_openmoji_names_carry_kind_and_category() -> None:
    ingest.run(settings(limit=0))
    captions = {}
    for side in ("train", "val"):
        split = read_split(paths.SHARDS / side)
        captions |= dict(zip(split.keys, split.captions, strict=True))
    assert captions["2764-FE0F"] == "heavy black heart, heart, smileys & emotion"
    assert captions["1F988"] == "shark, animal marine, animals & nature"
    assert len(set(captions.values())) == len(captions)
