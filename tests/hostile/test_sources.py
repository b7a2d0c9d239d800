"""Test that damaged or hostile folders, archives and datasets give rejects or one line."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear import paths
from gear.core.errors import InputError
from gear.ingest.folder import image_folder
from gear.ingest.records import EncodedSample, Reject
from gear.ingest.webdataset import webdataset
from gear.stages import ingest
from tests.support.datasets import good, picture, settings, write_tar
from tests.support.hostile import refused
from tests.support.settings import tiny_settings, write_params


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small_folder(images: int = 6) -> Path:
    root = Path("root")
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for number in range(images):
            (root / name / f"{number}.png").write_bytes(picture(number + 100 * len(name)))
    return root


def rejects_of_folder(**options: bool) -> dict[str, str]:
    found = image_folder(Path("root"), **options)
    return {item.file: item.reason for item in found if isinstance(item, Reject)}


def non_utf8(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root / "cats") + b"/caf\xe9.png"))).write_bytes(picture(1))


def escape(root: Path) -> None:
    (root / "cats" / "\x1b[31mred.png").write_bytes(picture(1))


def fifo(root: Path) -> None:
    os.mkfifo(root / "cats/pipe.png")


def nested(root: Path) -> None:
    (root / "cats/more").mkdir()
    (root / "cats/more/1.png").write_bytes(picture(1))


def loose(root: Path) -> None:
    (root / "loose.PNG").write_bytes(picture(1))


def dangling(root: Path) -> None:
    (root / "cats/gone.png").symlink_to("nowhere.png")


def outside(root: Path) -> None:
    Path("elsewhere.png").write_bytes(picture(1))
    (root / "cats/link.png").symlink_to(Path("elsewhere.png").resolve())


def outside_class(root: Path) -> None:
    Path("other").mkdir()
    (Path("other") / "1.png").write_bytes(picture(1))
    (root / "birds").symlink_to(Path("other").resolve())


def only_folders(root: Path) -> None:
    (root / "birds/inner").mkdir(parents=True)
    (root / "birds/inner/1.png").write_bytes(picture(1))


def captions(*lines: bytes) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "metadata.jsonl").write_bytes(b"\n".join(lines))

    return write


def table_of_captions(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,text\ncats/0.png,a cat\n")


@pytest.mark.parametrize(
    ("spoil", "file", "reason"),
    [
        (fifo, "cats/pipe.png", "neither file nor folder"),
        (nested, "cats/more", "a folder inside a class folder"),
        (loose, "loose.PNG", "not in a class folder"),
        (dangling, "cats/gone.png", "a link to nothing"),
        (outside, "cats/link.png", "a link out of data.root: set data.follow_links"),
        (outside_class, "birds", "a link to a folder out of data.root"),
        (only_folders, "birds/inner", "a folder inside a class folder"),
        (captions(b"{"), "metadata.jsonl line 1", 'not {"file_name"'),
        (captions(b"", b"[1]"), "metadata.jsonl line 2", 'not {"file_name"'),
        (captions(b"\xff\xfe"), "metadata.jsonl line 1", 'not {"file_name"'),
        (captions(b"[" * 100_000), "metadata.jsonl line 1", 'not {"file_name"'),
        (captions(b'{"file_name": 3, "text": "a"}'), "metadata.jsonl line 1", "both texts"),
        (
            captions(b'{"file_name": "cats/77.png", "text": "a"}'),
            "metadata.jsonl: cats/77.png",
            "no image of this name",
        ),
        (
            captions(*[b'{"file_name": "cats/0.png", "text": "a"}'] * 2),
            "metadata.jsonl line 2",
            "a second caption of cats/0.png",
        ),
        (table_of_captions, "metadata.csv", "captions are lines of metadata.jsonl"),
    ],
)
def test_what_cannot_be_read_in_a_folder_is_a_reject(
    spoil: Callable[[Path], None], file: str, reason: str
) -> None:
    spoil(small_folder())
    found = rejects_of_folder()
    assert set(found) == {file}
    assert reason in found[file]


def test_links_are_followed_if_a_setting_allows() -> None:
    root = small_folder()
    outside(root)
    assert not rejects_of_folder(follow_links=True)
    names = {i.key for i in image_folder(root, follow_links=True) if isinstance(i, EncodedSample)}
    assert "cats/link.png" in names


def test_a_class_folder_that_is_a_link_is_never_followed() -> None:
    """DVC does not descend into it, so ingest would not run again when an image changes."""
    outside_class(small_folder())
    found = rejects_of_folder(follow_links=True)
    assert list(found) == ["birds"]
    assert "DVC would not see changes" in found["birds"]


def test_hidden_files_and_folders_are_no_classes() -> None:
    root = small_folder()
    (root / ".git").mkdir()
    (root / ".git/1.png").write_bytes(picture(1))
    (root / "cats/.hidden.png").write_bytes(picture(1))
    samples = [item for item in image_folder(root) if isinstance(item, EncodedSample)]
    assert len(samples) == 12
    assert {sample.category for sample in samples} == {"cats", "dogs"}


@pytest.mark.parametrize("spoil", [non_utf8, escape])
def test_names_that_cannot_be_stored_are_rejects_and_the_rest_is_written(
    spoil: Callable[[Path], None],
) -> None:
    spoil(small_folder())
    ingest.run(settings(source="folder", root="root", max_reject_share=0.2, val_share=0.3))
    (reject,) = json.loads((paths.SHARDS / "rejects.json").read_text())
    assert "its name" in reject["reason"]
    assert reject["file"].isprintable()


def test_a_long_or_controlled_caption_is_a_reject_and_the_gate_stays_open() -> None:
    root = small_folder()
    rows = [
        {"file_name": "cats/0.png", "text": "x" * 2001},
        {"file_name": "cats/1.png", "text": "half \ud800 pair"},
        {"file_name": "cats/2.png", "text": "a nul \0 here"},
        {"file_name": "cats/3.png", "text": "a \u202eoverride"},
    ]
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    ingest.run(settings(source="folder", root="root", max_reject_share=0.5, val_share=0.3))
    found = {
        r["file"]: r["reason"] for r in json.loads((paths.SHARDS / "rejects.json").read_text())
    }
    assert set(found) == {f"cats/{n}.png" for n in range(4)}
    assert "2001 characters" in found["cats/0.png"]
    assert "not UTF-8" in found["cats/1.png"]
    assert "U+0000" in found["cats/2.png"]
    assert "U+202E" in found["cats/3.png"]


def tar_bytes(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(min(member.size, 1 << 20))))
    return buffer.getvalue()


def whole() -> bytes:
    write_tar(Path("w/w.tar"), good())
    return Path("w/w.tar").read_bytes()


def endless() -> bytes:
    member = tarfile.TarInfo("a.png")
    member.pax_headers = {"size": "1" + "0" * 20}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: whole()[: len(whole()) // 2],
        lambda: whole()[: 512 * 12],  # cut between members: only the end marker is missing
        lambda: whole().replace(b"0003.json", b"\xaa" * 9),  # a header with a wrong checksum
        lambda: b"",
        lambda: b"\x1f\x8b" + bytes(600),
        lambda: b"no archive" * 200,
        endless,
    ],
)
@pytest.mark.timeout(20)
def test_a_broken_archive_fails_the_ingest(
    make: Callable[[], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    content = make()
    Path("root").mkdir()
    Path("root/00.tar").write_bytes(content)
    write_params(
        Path(), tiny_settings(host={"workers": 1}, data={"source": "webdataset", "root": "root"})
    )
    refused(capsys, "ingest", says=("1 of 1 archives broken, over data.max_reject_share", "00.tar"))
    assert not paths.SHARDS.exists()


@pytest.mark.timeout(20)
def test_a_pipe_named_tar_does_not_hang(capsys: pytest.CaptureFixture[str]) -> None:
    Path("root").mkdir()
    os.mkfifo("root/00.tar")
    write_params(
        Path(), tiny_settings(host={"workers": 1}, data={"source": "webdataset", "root": "root"})
    )
    refused(capsys, "ingest", says=("1 of 1 archives broken", "no file"))


def test_one_broken_archive_of_many_is_a_reject() -> None:
    for number in range(3):
        write_tar(Path(f"root/{number:02d}.tar"), good())
    cut = Path("root/01.tar")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found = list(webdataset(Path("root"), "caption", 0.5))
    broken = [item for item in found if isinstance(item, Reject)]
    assert [item.file for item in broken] == ["01.tar"]
    assert "copy it again" in broken[0].reason
    assert sum(isinstance(item, EncodedSample) for item in found) >= 48
    with pytest.raises(InputError, match="1 of 3 archives broken"):
        list(webdataset(Path("root"), "caption", 0.3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"caption": "a\\ud800b"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"caption": 3}', "no caption"),
        (b"{}", "no caption"),
    ],
)
def test_a_bad_description_in_an_archive_is_a_reject(content: bytes, reason: str) -> None:
    write_tar(Path("root/00.tar"), [*good(12), ("zz.png", picture(99)), ("zz.json", content)])
    data = {"source": "webdataset", "root": "root", "max_reject_share": 0.2, "val_share": 0.3}
    ingest.run(settings(**data))
    (reject,) = json.loads((paths.SHARDS / "rejects.json").read_text())
    assert reject["file"] == "00/zz"
    assert reason in reject["reason"]


def test_mutants_of_an_archive_are_samples_rejects_or_one_line() -> None:
    random = np.random.default_rng(0)
    write_tar(Path("w/w.tar"), good(4))
    content = Path("w/w.tar").read_bytes()
    Path("root").mkdir()
    for _ in range(300):
        data = bytearray(content)
        for _ in range(int(random.integers(1, 6))):
            block = int(random.integers(len(data) // 512)) * 512  # start of a block, often a header
            data[block + int(random.integers(512))] = int(random.integers(256))
        Path("root/00.tar").write_bytes(bytes(data))
        for item in webdataset(Path("root"), "caption", 1.0):
            assert isinstance(item, EncodedSample | Reject)
            if isinstance(item, Reject):
                assert item.file.isprintable()
                assert item.reason.isprintable()


@pytest.mark.parametrize("spoil", ["cut", "junk", "absent", "no state"])
def test_a_damaged_dataset_of_hugging_face_is_one_line(
    spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    pixels = [Image.open(io.BytesIO(picture(n))) for n in range(4)]
    table = datasets.Dataset.from_dict({"image": pixels, "caption": ["a"] * 4})
    table.cast_column("image", datasets.Image()).save_to_disk("root")
    (file,) = Path("root").glob("*.arrow")
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif spoil == "junk":
        file.write_bytes(b"junk" * 100)
    elif spoil == "absent":
        file.unlink()
    else:
        Path("root/state.json").write_text("[")
    write_params(
        Path(), tiny_settings(host={"workers": 1}, data={"source": "huggingface", "root": "root"})
    )
    refused(capsys, "ingest", says=("data.root: root",))
