"""Test weights and checkpoint folders that are damaged or contain code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gear.cli import main
from gear.core.errors import InputError
from gear.core.model_folder import save_model
from gear.core.untrusted_checkpoint import read_untrusted_checkpoint
from gear.generator.config import GeneratorShape
from gear.generator.inference import load_generator
from gear.generator.transformer import Generator
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.model import Tokenizer
from tests.support.hostile import refused

SHAPE = TokenizerShape(codes=16, code_dim=4, base=8, multipliers=(1, 1), z_channels=8)
GENERATOR = GeneratorShape(layers=1, heads=1, width=16, tap=1, projector_hidden=8)


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = Tokenizer(SHAPE)
    save_model(
        Path("c/tokenizer"),
        tokenizer.state_dict(),
        {"tokenizer": SHAPE.model_dump(mode="json"), "temperature": None},
    )
    generator = Generator(GENERATOR, codes=16, grid=4, classes=2)
    facts = {"generator": GENERATOR.model_dump(mode="json"), "codes": 16, "grid": 4}
    save_model(
        Path("c/generator"),
        generator.state_dict(),
        {**facts, "classes": 2, "class_names": ["a", "b"], "condition": "class"},
    )


def spoil_json(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        facts = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in facts.items() if v != "drop"}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    first = next(name for name, value in weights.items() if value.is_floating_point())
    weights[first].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors")


def lost(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


HUGE = (2**60).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize("part", ["tokenizer", "generator"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (write("config.json", b"["), "config.json: not JSON"),
        (write("config.json", b"\xff"), "config.json: not JSON"),
        (write("config.json", b"[]"), "not a mapping"),
        (write("config.json", b"[" * 100_000), "config.json: not JSON"),
        (write("config.json", b"{}"), "is this the folder of a"),
        (write("model.safetensors", b"junk"), "model.safetensors: damaged"),
        (write("model.safetensors", b""), "model.safetensors: damaged"),
        (write("model.safetensors", HUGE), "model.safetensors: damaged"),
        (cut, "model.safetensors: damaged"),
        (nan, "NaN or infinite"),
        (lost, "model.safetensors: no such file"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    part: str, spoil: Callable[[Path], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(Path("c") / part)
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=(says, f"c/{part}"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codes": "drop"}, "codes is None"),
        ({"codes": 2**40}, "codes is 1099511627776"),
        ({"codes": True}, "codes is True"),
        ({"grid": -1}, "grid is -1"),
        ({"grid": "4"}, "grid is '4'"),
        ({"classes": 1.5}, "classes is 1.5"),
        ({"class_names": None}, "no class_names"),
        ({"grid": 2**20}, "images of 2097152 pixels a side"),
        ({"condition": "nonsense"}, "condition is 'nonsense', not one of class, caption"),
        ({"condition": None}, "condition is None"),
        ({"codes": 8}, "does not fit its config.json"),
        ({"generator": {"layers": 10**9}}, "generator."),
        ({"generator": [1]}, "no 'generator' in it"),
    ],
)
def test_a_config_of_nonsense_is_one_line(
    changes: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_json(**changes)(Path("c/generator"))
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=(says,))


def test_a_grid_that_no_weight_shows_allocates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    spoil_json(size=32)(Path("c/tokenizer"))
    spoil_json(grid=2**20)(Path("c/generator"))
    says = ("grid is 1048576, not a whole number from 1 to 512",)
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=says)


@pytest.mark.parametrize("kind", [torch.bool, torch.int8, torch.complex64])
@pytest.mark.parametrize("part", ["tokenizer", "generator"])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    part: str, kind: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("c") / part / "model.safetensors"
    save_file({name: value.to(kind) for name, value in load_file(file).items()}, file)
    says = (f"c/{part}", "has numbers of type")
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=says)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path("c/generator") / name).unlink()
    os.mkfifo(Path("c/generator") / name)
    says = (f"c/generator/{name}: no regular file",)
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=says)
    if name == "model.safetensors":
        spoil_json(condition="caption")(Path("c/generator"))
        refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=says)


def test_a_config_of_a_larger_model_allocates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """These would take 26 TB and 50 GB."""
    giant = GENERATOR.model_copy(update={"layers": 512, "width": 32768})
    spoil_json(generator=giant.model_dump(mode="json"))(Path("c/generator"))
    fit = "model.safetensors: does not fit its config.json: "
    says = (fit, "is (3, 16) and should be (3, 32768)")
    refused(capsys, "generate", "--checkpoint", "c", "--out", "x.png", says=says)
    wide = SHAPE.model_copy(update={"base": 4096})
    spoil_json(tokenizer=wide.model_dump(mode="json"))(Path("c/tokenizer"))
    Image.new("RGB", (8, 8)).save("a.png")
    refused(capsys, "encode", "a.png", "--checkpoint", "c/tokenizer", "--out", "x.npz", says=(fit,))


def legacy_evil(file: Path) -> None:
    torch.save({"model": Evil()}, file, _use_new_zipfile_serialization=False)


def evil(file: Path) -> None:
    torch.save({"model": Evil()}, file)


def half(file: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:1500])


def tokens(**state: Any) -> Callable[[Path], None]:
    return lambda file: torch.save({"model": state}, file)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (evil, "holds more than tensors and was not executed (it names posix.mkdir)"),
        (legacy_evil, "holds more than tensors and was not executed"),
        (half, "not a readable checkpoint"),
        (lambda f: f.write_bytes(b""), "not a readable checkpoint"),
        (lambda f: f.write_bytes(b"PK\x03\x04" + b"x" * 100), "not a readable checkpoint"),
        (lambda f: f.write_bytes(os.urandom(5000)), "bad.pt"),
        (lambda f: f.mkdir(), "a folder"),
        (lambda f: None, "no such file"),
        (lambda f: torch.save([1], f), "holds a list"),
        (lambda f: torch.save({1: 2}, f), "bad.pt"),
        (tokens(encoder="text"), "bad.pt"),
        (tokens(**{"encoder.conv_in.weight": 3}), "bad.pt"),
        (tokens(**{"tok_embeddings.weight": torch.zeros(0)}), "bad.pt"),
        (tokens(**{"tok_embeddings.weight": torch.zeros(2, 2).to_sparse()}), "bad.pt"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(
    make: Callable[[Path], Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(Path("bad.pt"))
    refused(capsys, "import", "bad.pt", "native", says=(says,))
    assert not Path("ran").exists()
    assert not Path("native").exists()


def exported(part: str, **changes: Any) -> None:
    """Export a model to `bad.pt`, with changes of the config that the file holds."""
    assert main(["export", f"c/{part}", "bad.pt"]) == 0
    content = torch.load("bad.pt", weights_only=True)
    content["gear"] |= changes
    torch.save(content, "bad.pt")


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("generator", {"grid": torch.tensor(8)}, "gear.grid"),
        ("generator", {"grid": 10**6}, "take a whole number from 1 to 512"),
    ],
)
def test_a_config_of_nonsense_in_an_exported_file_is_one_line(
    part: str, changes: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(part, **changes)
    capsys.readouterr()
    refused(capsys, "import", "bad.pt", "native", says=(says,))
    assert not Path("native").exists()


@pytest.mark.parametrize("condition", [{1}, float("nan"), "caption", torch.tensor(1), b"x"])
def test_what_an_exported_file_says_against_its_weights_is_not_taken_over(condition: Any) -> None:
    exported("generator", condition=condition, text={torch.tensor(0): 1})
    assert main(["import", "bad.pt", "native"]) == 0
    assert main(["generate", "--checkpoint", "c", "--out", "x.png", "--each", "1"]) == 0
    assert load_generator(Path("native/generator")).classes == 2


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_import_takes_floating_point_numbers_only(
    kind: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    exported("generator")
    content = torch.load("bad.pt", weights_only=True)
    torch.save({"model": {n: v.to(kind) for n, v in content["model"].items()}}, "bad.pt")
    capsys.readouterr()
    refused(capsys, "import", "bad.pt", "native", "--heads", "2", says=("has numbers of type",))


def test_weights_that_are_infinite_as_written_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exported("generator")
    content = torch.load("bad.pt", weights_only=True)
    content["model"] = {name: value.double() * 1e300 for name, value in content["model"].items()}
    torch.save(content, "bad.pt")
    capsys.readouterr()
    refused(capsys, "import", "bad.pt", "native", says=("NaN or infinite",))
    assert not Path("native").exists()


def test_names_in_a_file_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    exported("generator")
    content = torch.load("bad.pt", weights_only=True)
    content["model"]["a\n\x1b[31m\u202e"] = torch.zeros(1)
    torch.save(content, "bad.pt")
    capsys.readouterr()
    assert main(["import", "bad.pt", "native"]) == 0
    printed = capsys.readouterr().out
    assert "a \\x1b[31m\\u202e" in printed
    assert printed.count("\n") == 1


def test_an_old_file_of_tensors_is_read() -> None:
    """Test the format before PyTorch 1.6, which was not a zip archive."""
    torch.save({"a": torch.ones(3)}, "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_untrusted_checkpoint(Path("old.pt"))["a"], torch.ones(3))


def test_import_replaces_no_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "c/tokenizer", "t.pt"]) == 0
    Path("native/tokenizer").mkdir(parents=True)
    Path("native/tokenizer/thesis.tex").write_text("years of work")
    refused(capsys, "import", "t.pt", "native", says=("holds other files (thesis.tex)",))
    shutil.rmtree("native")
    assert main(["import", "t.pt", "native"]) == 0
    assert main(["import", "t.pt", "native"]) == 0, "what gear wrote is replaced"


@pytest.mark.parametrize(
    "words",
    [
        ("export", "c/tokenizer", "folder"),
        ("export", "c/tokenizer", "x.safetensors"),
        ("export", "c/tokenizer", "c/tokenizer/x.pt"),
        ("export", "c/tokenizer", "/proc/x.pt"),
        ("reconstruct", "a.png", "--checkpoint", "c/tokenizer", "--size", "8", "--out", "a.png"),
        ("publish", "--checkpoint", "c", "--hub", "/"),
        ("publish", "--checkpoint", "c", "--hub", "a/<b>"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--classes", "9" * 5000),
        ("export", "c/tokenizer", "file/x.pt"),
        ("export", "nowhere", "x.pt"),
        ("import", "file", "native"),
        ("import", "t.safetensors", "file"),
        ("generate", "--checkpoint", "c", "--out", "folder.png"),
        ("generate", "--checkpoint", "c", "--out", "file/x.png"),
        ("generate", "--checkpoint", "c", "--out", "x.gif"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--each", "1000000"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--each", "0"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--seed", "-1"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--seed", "9" * 30),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--temperature", "nan"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--guidance", "inf"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--top-k", "-3"),
        ("generate", "--checkpoint", "c", "--out", "x.png", "--classes", "\x1b[31m"),
        ("generate", "--checkpoint", "nowhere", "--out", "x.png"),
    ],
)
def test_bad_arguments_are_one_line_before_the_work(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    Path("folder.png").mkdir()
    Path("file").write_text("text")
    save_file({"a": torch.zeros(1)}, "t.safetensors")
    Image.new("RGB", (8, 8)).save("a.png")
    before = Path("a.png").read_bytes()
    refused(capsys, *words)
    assert Path("a.png").read_bytes() == before
    assert not Path("published").exists()


def test_mutants_of_weights_are_tensors_or_one_line() -> None:
    random = np.random.default_rng(0)
    torch.save({"a": torch.ones(40), "b": [1, {"c": torch.zeros(2)}]}, "w.pt")
    save_file({"a": torch.ones(40), "b": torch.zeros(3, 3)}, "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        content = Path(name).read_bytes()
        for _ in range(150):
            data = bytearray(content)
            for _ in range(int(random.integers(1, 6))):
                data[int(random.integers(len(data)))] = int(random.integers(256))
            file = Path(f"mutant{Path(name).suffix}")
            file.write_bytes(bytes(data[: int(random.integers(len(data) // 2, len(data) + 1))]))
            message = ""
            try:
                read_untrusted_checkpoint(file)
            except InputError as error:
                message = str(error)
            assert "\n" not in message
            assert "weights_only=False" not in message
