"""Test that public checkpoint layouts are imported and exported exactly, or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gear.cli import main
from gear.core.errors import InputError
from gear.core.model_folder import save_model
from gear.generator.config import GeneratorConfig, GeneratorShape, SampleConfig
from gear.generator.inference import load_generator
from gear.generator.public_layouts import shape_of
from gear.generator.sampling import sample
from gear.generator.transformer import Generator
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.inference import load_tokenizer
from gear.tokenizer.model import Tokenizer
from tests.support.layouts import QUANTIZER, generator, tokenizer

LEVELS = 3


def taming_name(key: str) -> str:
    """Return the name of a weight in the taming layout, which IBQ uses."""
    side, _, rest = key.partition(".")
    if side in ("encoder", "decoder"):
        rest = (
            rest.replace("mid.0.", "mid.block_1.")
            .replace("mid.1.", "mid.attn_1.")
            .replace("mid.2.", "mid.block_2.")
        )
        if rest.startswith("conv_blocks."):
            _, level, kind, tail = rest.split(".", 3)
            number = int(level) if side == "encoder" else LEVELS - 1 - int(level)
            level, part = "down" if side == "encoder" else "up", "block" if kind == "res" else kind
            rest = f"{level}.{number}.{part}.{tail}"
    return f"{side}.{rest}" if rest else side


def public(layout: str, model: Tokenizer) -> dict[str, torch.Tensor]:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return (
        {taming_name(key): value for key, value in state.items()} if layout == "taming" else state
    )


def averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a Lightning state dict with the EMA weights, and zeros as the live weights."""
    live = {key: torch.zeros_like(value) for key, value in state.items()}
    ema = {f"model_ema.{key.replace('.', '')}": value for key, value in state.items()}
    extras = {
        "model_ema.decay": torch.tensor(0.99),
        "model_ema.num_updates": torch.tensor(3),
        "loss.discriminator.w": torch.ones(2),
    }
    return {**live, **ema, **extras}


def wrappers(layout: str, state: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    return {
        "bare": state,
        "model": {"model": state, "steps": 7},
        "state_dict": {"state_dict": {**state, "loss.logvar": torch.zeros(1)}},
        "ema": {"state_dict": averaged(state)},
        "gear": {"vq": other, "vq_ema": state},
        "llamagen": {"model": other, "ema": state, "discriminator": {"w": torch.ones(1)}},
    }


@pytest.mark.parametrize("wrapper", ["bare", "model", "state_dict", "ema", "gear", "llamagen"])
@pytest.mark.parametrize("layout", QUANTIZER)
def test_every_layout_and_container_imports_exactly(
    layout: str, wrapper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = tokenizer(layout)
    file = tmp_path / "public.ckpt"
    torch.save(wrappers(layout, public(layout, original))[wrapper], file)
    assert main(["import", str(file), str(tmp_path / "native")]) == 0
    assert "all " in capsys.readouterr().out
    loaded = load_tokenizer(tmp_path / "native/tokenizer")
    assert loaded.config.quantizer == QUANTIZER[layout]
    assert loaded.config.multipliers == (1, 2, 2)
    assert loaded.config.codes == 64
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(images).reconstruction, original(images).reconstruction)
    provenance = json.loads((tmp_path / "native/tokenizer/provenance.json").read_text())
    assert provenance["file"] == "public.ckpt"
    assert provenance["layout"] == layout
    assert len(provenance["sha256"]) == 64


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_generator_imports_exactly_and_with_the_rotation_it_was_trained_with(
    suffix: str, tmp_path: Path
) -> None:
    original, file = generator(), tmp_path / f"c2i{suffix}"
    state = {**original.state_dict(), "freqs_cis": torch.zeros(3)}
    if suffix == ".pt":
        torch.save({"model": state, "optimizer": {"lr": 1.0}}, file)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, file)
    assert main(["import", str(file), str(tmp_path / "native"), "--heads", "2", "--grid", "4"]) == 0
    loaded = load_generator(tmp_path / "native/generator")
    assert loaded.config.prefix_rope == "zero"
    assert loaded.classes == 5
    tokens, labels = torch.randint(64, (2, 16)), torch.tensor([0, 4])
    with torch.no_grad():
        assert torch.equal(loaded(tokens, labels).logits, original(tokens, labels).logits)


@pytest.mark.parametrize(
    ("width", "heads"),
    [(768, 12), (1024, 16), (1280, 20), (1536, 24), (3200, 32), (16, None), (2048, None)],
)
def test_heads_are_those_of_the_published_model_of_this_width(
    width: int, heads: int | None
) -> None:
    with torch.device("meta"):
        state = {
            "tok_embeddings.weight": torch.empty(64, width),
            "layers.0.attention.wqkv.weight": torch.empty(3 * width, width),
            "cls_embedding.embedding_table.weight": torch.empty(6, width),
        }
    assert shape_of(state)["heads"] == heads


def test_heads_of_a_width_that_was_not_published_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": generator().state_dict()}, tmp_path / "g.pt")
    words = ["import", str(tmp_path / "g.pt"), str(tmp_path / "native"), "--grid", "4"]
    assert main(words) == 2
    line = capsys.readouterr().err
    assert "no published generator has width 16" in line
    assert "--heads" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "native").exists()
    assert main([*words, "--heads", "2"]) == 0


def test_export_and_import_again_is_exact(tmp_path: Path) -> None:
    torch.save({"model": tokenizer("llamagen").state_dict()}, tmp_path / "t.pt")
    torch.save({"model": generator().state_dict()}, tmp_path / "g.pt")
    for name in ("t", "g"):
        assert (
            main(
                [
                    "import",
                    str(tmp_path / f"{name}.pt"),
                    str(tmp_path / "one"),
                    "--heads",
                    "2",
                    "--grid",
                    "4",
                ]
            )
            == 0
        )
    for part in ("tokenizer", "generator"):
        exported = tmp_path / f"{part}.pt"
        assert main(["export", str(tmp_path / "one" / part), str(exported)]) == 0
        assert (
            main(["import", str(exported), str(tmp_path / "two"), "--heads", "2", "--grid", "4"])
            == 0
        )
        one, two = (load_file(tmp_path / n / part / "model.safetensors") for n in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list(tmp_path.rglob("*.partial"))


def test_export_and_import_keep_what_weights_do_not_show(tmp_path: Path) -> None:
    """Test heads, grid, rotation of the prefix and class names, without a flag."""
    original = generator()
    config = {
        "generator": {**original.config.model_dump(mode="json"), "prefix_rope": "identity"},
        "codes": 64,
        "grid": 4,
        "classes": 5,
        "class_names": ["a", "b", "c", "d", "e"],
    }
    for name in ("steps", "start", "batch", "lr"):
        config["generator"].pop(name, None)
    save_model(tmp_path / "one/generator", original.state_dict(), config)
    assert main(["export", str(tmp_path / "one/generator"), str(tmp_path / "g.pt")]) == 0
    assert main(["import", str(tmp_path / "g.pt"), str(tmp_path / "two")]) == 0
    one = load_generator(tmp_path / "one/generator")
    two = load_generator(tmp_path / "two/generator")
    written = json.loads((tmp_path / "two/generator/config.json").read_text())
    assert written["class_names"] == ["a", "b", "c", "d", "e"]
    assert two.config == one.config
    seeds = np.arange(4)
    labels = torch.tensor([0, 1, 2, 3])
    settings = SampleConfig(n=4)
    assert torch.equal(sample(one, labels, seeds, settings), sample(two, labels, seeds, settings))


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ({"size": 32, "temperature": 0.5}, {"size": 32, "temperature": 0.5}),
        ({"size": -1, "temperature": float("nan")}, {"temperature": None}),
        ({"size": 33, "temperature": None}, {"temperature": None}),
        ({"size": True, "temperature": None}, {"temperature": None}),
    ],
)
def test_export_and_import_keep_a_tokenizer_s_size(
    tmp_path: Path, extra: dict[str, Any], kept: dict[str, Any]
) -> None:
    shape = TokenizerShape(codes=16, code_dim=4, base=32, multipliers=(1, 1), z_channels=8)
    config = {"tokenizer": shape.model_dump(mode="json"), **extra}
    save_model(tmp_path / "one", Tokenizer(shape).state_dict(), config)
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "t.pt")]) == 0
    assert main(["import", str(tmp_path / "t.pt"), str(tmp_path / "two")]) == 0
    (written,) = (json.loads(f.read_text()) for f in (tmp_path / "two").rglob("config.json"))
    written.pop("tokenizer")
    assert written == kept


def test_an_exported_text_conditional_generator_imports_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(2)
    shape = GeneratorConfig(layers=3, heads=2, width=16, tap=1, steps=0)
    original = Generator(shape, codes=64, grid=4, empty_caption=torch.randn(2, 6))
    torch.nn.init.normal_(original.output.weight)
    config = {
        "generator": GeneratorShape.pick(shape.model_dump(mode="json")).model_dump(mode="json"),
        "codes": 64,
        "grid": 4,
        "condition": "caption",
        "text": {"encoder": "minilm", "path": "/home/me/minilm"},
        "classes": 1,
        "class_names": ["image"],
    }
    save_model(tmp_path / "one/generator", original.state_dict(), config)
    assert main(["export", str(tmp_path / "one/generator"), str(tmp_path / "g.pt")]) == 0
    assert "*_text weights, which LlamaGen's own code does not have" in capsys.readouterr().out
    exported = torch.load(tmp_path / "g.pt", weights_only=True)["gear"]
    assert exported["text"] == {"encoder": "minilm", "path": ""}, "no path of this machine"
    assert main(["import", str(tmp_path / "g.pt"), str(tmp_path / "two")]) == 0
    one = load_file(tmp_path / "one/generator/model.safetensors")
    two = load_file(tmp_path / "two/generator/model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    load_generator(tmp_path / "two/generator")


@pytest.mark.parametrize("averaged_name", ["ema", "ar_ema", None])
def test_gears_generator_files_import_the_average(
    averaged_name: str | None, tmp_path: Path
) -> None:
    original = generator()
    state = {f"module.{key}": value for key, value in original.state_dict().items()}
    live = {key: torch.zeros_like(value) for key, value in state.items()}
    projectors = {"module.projectors.0.0.weight": torch.zeros(2, 2)}
    content: dict[str, Any] = {"ar": state | projectors, "opt": {"lr": 1.0}, "args": {"x": 1}}
    if averaged_name:
        content = {**content, "ar": live, averaged_name: state | projectors}
    torch.save(content, tmp_path / "0100000.pt")
    words = ["--heads", "2", "--grid", "4"]
    assert main(["import", str(tmp_path / "0100000.pt"), str(tmp_path / "native"), *words]) == 0
    loaded = load_generator(tmp_path / "native/generator")
    tokens = torch.randint(64, (2, 16))
    labels = torch.tensor([0, 4])
    with torch.no_grad():
        assert torch.equal(loaded(tokens, labels).logits, original(tokens, labels).logits)
    assert not (tmp_path / "native/tokenizer").exists()


def test_a_whole_stage_one_file_gives_both_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tokenizer("llamagen")
    second = generator()
    content = {
        "vq": {key: torch.zeros_like(value) for key, value in first.state_dict().items()},
        "vq_ema": first.state_dict(),
        "ar": second.state_dict(),
        "disc": {"w": torch.ones(1)},
    }
    torch.save(content, tmp_path / "stage1.pt")
    words = ["--heads", "2", "--grid", "4"]
    assert main(["import", str(tmp_path / "stage1.pt"), str(tmp_path / "native"), *words]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    loaded = load_tokenizer(tmp_path / "native/tokenizer")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(images).reconstruction, first(images).reconstruction)
    load_generator(tmp_path / "native/generator")


def test_the_average_of_a_generator_is_not_taken_for_the_tokenizer_s(tmp_path: Path) -> None:
    first = tokenizer("llamagen")
    content = {"vq": first.state_dict(), "ema": generator().state_dict()}
    torch.save(content, tmp_path / "both.pt")
    words = ["--heads", "2", "--grid", "4"]
    assert main(["import", str(tmp_path / "both.pt"), str(tmp_path / "native"), *words]) == 0
    loaded = load_tokenizer(tmp_path / "native/tokenizer")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(images).reconstruction, first(images).reconstruction)
    load_generator(tmp_path / "native/generator")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(tokenizer("llamagen").state_dict())
    state["decoder.conv_out.bias"] = torch.tensor([0.0, value, 0.0])
    torch.save({"model": state}, tmp_path / "bad.pt")
    assert main(["import", str(tmp_path / "bad.pt"), str(tmp_path / "native")]) == 2
    assert "decoder.conv_out.bias has NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "native").exists()
    torch.save({"model": tokenizer("llamagen").state_dict()}, tmp_path / "good.pt")
    assert main(["import", str(tmp_path / "good.pt"), str(tmp_path / "native")]) == 0
    folder = tmp_path / "native/tokenizer"
    save_model(folder, state, json.loads((folder / "config.json").read_text()))
    with pytest.raises(InputError, match=r"decoder\.conv_out\.bias has NaN or infinite"):
        load_tokenizer(folder)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def drop(key: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            drop("decoder.mid.1.q.weight"),
            r"covers 9\d\.\d% of the model's \d+ weights; decoder\.mid\.1\.q\.weight \(absent\)",
        ),
        (
            lambda s: {**s, "decoder.conv_out.weight": torch.zeros(3, 8, 1, 1)},
            r"decoder\.conv_out\.weight \(\(3, 8, 1, 1\), not \(3, 8, 3, 3\)\)",
        ),
        (drop("encoder.conv_in.weight"), r"without 'encoder\.conv_in\.weight'"),
        (
            lambda s: {"something": torch.zeros(2)},
            "none of the known layouts.*begins with something",
        ),
        (lambda s: {**s, "hook": Evil()}, "holds more than tensors and was not executed"),
        (lambda s: [1, 2], "holds a list"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_whole(
    spoil: Any,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(spoil(dict(tokenizer("llamagen").state_dict())), tmp_path / "bad.pt")
    assert main(["import", "bad.pt", "native"]) == 2
    line = capsys.readouterr().err
    assert re.search(words, line)
    assert line.count("\n") == 1
    assert "Traceback" not in line
    assert not (tmp_path / "native").exists()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_a_broken_file_gives_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    assert main(["import", str(tmp_path / "bad.pt"), str(tmp_path / "native")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_export_refuses_what_the_layout_has_no_place_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(public("magvit2", tokenizer("magvit2")), tmp_path / "lfq.pt")
    assert main(["import", str(tmp_path / "lfq.pt"), str(tmp_path)]) == 0
    assert main(["export", str(tmp_path / "tokenizer"), str(tmp_path / "out.pt")]) == 2
    assert "VQ tokenizers and generators only" in capsys.readouterr().err
