"""Test trained models in Python: loaded from a folder or the Hub's cache, and saved again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, RepoUrl
from PIL import Image
from safetensors.torch import load_file

import gear
from gear import hub_model
from gear.core.errors import InputError
from gear.core.model_folder import CONFIG, WEIGHTS, save_model
from gear.encoders.config import TextConfig
from gear.encoders.text import TextEncoder
from gear.evaluation.frechet import distance
from gear.generator import inference
from gear.generator.transformer import Generator
from gear.params import Config, load_preset
from gear.tokenizer.model import Tokenizer

NAMES = ["dog", "Cat", "bird"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the stage `generator` writes it, with untrained models."""
    config = load_preset("tiny")
    folder = tmp_path_factory.mktemp("checkpoint") / "generator"
    write(folder, config)
    return folder


def write(folder: Path, config: Config) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer)
    generator = Generator(
        config.generator, codes=config.tokenizer.codes, grid=config.grid, classes=len(NAMES)
    )
    torch.nn.init.normal_(generator.output.weight, std=0.3)
    shape = {"tokenizer": config.tokenizer.model_dump(mode="json")}
    save_model(folder / "tokenizer", tokenizer.state_dict(), shape)
    facts = {"codes": config.tokenizer.codes, "grid": config.grid, "classes": len(NAMES)}
    facts |= {"class_names": NAMES, "condition": "class"}
    shape = {"generator": config.generator.model_dump(mode="json")}
    save_model(folder / "generator", generator.state_dict(), {**facts, **shape})


@pytest.fixture
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]


def test_tokens_of_images_are_those_of_the_model(
    checkpoint: Path, images: list[Image.Image]
) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    assert (tokenizer.size, tokenizer.stride) == (32, 4)
    pixels = np.stack([np.asarray(image) for image in images])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = tokenizer.model.encode(tensor).indices
        decoded = tokenizer.model.decode_indices(expected)
    for given in (images, tensor):
        assert torch.equal(tokenizer.encode(given), expected)
    assert torch.equal(tokenizer.encode(images[0]), expected[:1])
    assert torch.equal(tokenizer.encode(tensor[0]), expected[:1])
    shown = np.stack([np.asarray(image) for image in tokenizer.decode(expected)])
    wanted = (decoded.clamp(-1, 1) + 1) * 127.5
    assert np.abs(shown - wanted.permute(0, 2, 3, 1).numpy()).max() <= 0.501


def test_a_photograph_is_cropped_and_put_on_white(checkpoint: Path) -> None:
    tokenizer = gear.load_tokenizer(checkpoint / "tokenizer")
    clear = Image.new("RGBA", (90, 40), (255, 0, 0, 0))
    assert np.asarray(tokenizer.prepare(clear)).min() == 255
    assert tokenizer.prepare(clear).size == (32, 32)
    for mode in ("1", "L", "LA", "P", "I", "I;16", "CMYK", "RGBA"):
        assert tokenizer.prepare(Image.new(mode, (40, 50))).mode == "RGB"
    for size in ((1, 5), (2, 900_000)):
        with pytest.raises(InputError, match="image: "):
            tokenizer.prepare(Image.new("L", size))
    tokenizer.size = None
    with pytest.raises(InputError, match=r"set tokenizer\.size, a multiple of 4"):
        tokenizer.encode(Image.new("L", (64, 64)))


@pytest.mark.parametrize("size", [30, 0, -4, 2052])
def test_a_size_that_the_tokenizer_cannot_encode_is_refused(checkpoint: Path, size: int) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    with pytest.raises(InputError, match=f"tokenizer.size {size}: take a multiple of 4 up to 2048"):
        tokenizer.size = size
    assert tokenizer.size == 32
    tokenizer.size = 36
    assert tokenizer.encode(Image.new("L", (64, 64))).shape == (1, 81)


@pytest.mark.parametrize("size", ["32", 32.0])
def test_a_size_that_is_no_whole_number_is_refused(checkpoint: Path, size: Any) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    with pytest.raises(InputError, match=r"tokenizer\.size: give a whole number, not .*32"):
        tokenizer.size = size


def test_a_size_that_numpy_computed_is_saved(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    tokenizer.size = np.int64(36)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert gear.load_tokenizer(tmp_path / "saved").size == 36


def test_a_size_in_config_json_that_does_not_fit_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint / "tokenizer", tmp_path / "copy")
    file = tmp_path / "copy/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": 30}))
    with pytest.raises(InputError, match="copy: images of 30 pixels a side: take a multiple of 4"):
        gear.load_tokenizer(tmp_path / "copy")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 30, 30), "a multiple of 4"),
        (torch.zeros(1, 3, 32, 36), r"give \(N, 3, S, S\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "from -1 to 1"),
        (torch.full((1, 3, 32, 32), 255.0), "from -1 to 1"),
        (torch.full((1, 3, 32, 32), torch.nan), "from -1 to 1"),
        (torch.zeros(1, 3, 0, 0), "a multiple of 4"),
        (torch.zeros(1, 3, 32, 32).to_sparse(), "from -1 to 1"),
        (torch.zeros(1, 3, 32, 32, device="meta"), "from -1 to 1"),
        (torch.zeros(1, 3, 32, 32).to(torch.float8_e4m3fn), "from -1 to 1"),
        ([], "no image"),
    ],
)
def test_images_that_no_tokenizer_takes_are_refused(
    checkpoint: Path, images: torch.Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gear.load_tokenizer(checkpoint).encode(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), "ndarray: encode_pixels takes arrays"),
        ([np.zeros((32, 32, 3), np.uint8)], "ndarray: encode_pixels takes arrays"),
        ([torch.zeros(3, 32, 32)], "Tensor: torch.stack"),
        ("photo.jpg", r"str: open a file with PIL\.Image\.open"),
        (Path("photo.jpg"), r"Path: open a file with PIL\.Image\.open"),
        ([Image.new("L", (32, 32)), "photo.jpg"], r"str: open a file with PIL\.Image\.open"),
        (None, "NoneType: give a PIL image"),
        (iter([]), "no image"),
    ],
)
def test_images_of_another_type_are_refused_with_what_to_give(
    checkpoint: Path, images: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gear.load_tokenizer(checkpoint).encode(images)


def test_a_damaged_image_is_named_by_its_place(checkpoint: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    pictures = [Image.new("L", (32, 32)), Image.open(tmp_path / "a.png")]
    with pytest.raises(InputError, match=r"image 1 of 2, image: .*truncated"):
        gear.load_tokenizer(checkpoint).encode(pictures)


@pytest.mark.parametrize("path", ["x" * 5000, None, 3, b"folder"])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InputError):
        gear.load_tokenizer(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F", "HSV"])
def test_images_may_be_of_any_mode_and_come_from_a_generator(checkpoint: Path, mode: str) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    picture = Image.new(mode, (40, 36))
    expected = tokenizer.encode(picture)
    assert torch.equal(tokenizer.encode([picture]), expected)
    assert torch.equal(tokenizer.encode(one for one in [picture]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_tokenizer_in_half_precision_encodes_and_decodes(
    checkpoint: Path, images: list[Image.Image], dtype: torch.dtype
) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    expected = tokenizer.encode(images)
    decoded = tokenizer.decode(expected)
    tokenizer.model.to(dtype)
    tensor = (
        torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        / 127.5
        - 1
    )
    for given in (images, tensor):
        assert (tokenizer.encode(given) == expected).float().mean() > 0.9
    near = np.asarray(tokenizer.decode(expected)[0], dtype=int)
    assert np.abs(near - np.asarray(decoded[0])).max() <= 16


def test_a_tokenizer_in_double_precision_is_refused(
    checkpoint: Path, images: list[Image.Image]
) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    tokenizer.model.double()
    with pytest.raises(InputError, match=r"float64: call tokenizer\.model\.float\(\)"):
        tokenizer.encode(images)
    with pytest.raises(InputError, match=r"float64: call tokenizer\.model\.float\(\)"):
        tokenizer.decode(torch.zeros(1, 64).long())


@pytest.mark.parametrize(
    "indices",
    [
        torch.zeros(1, 15).long(),
        torch.tensor([[64] * 16]),
        torch.tensor([[-1] * 16]),
        torch.zeros(1, 16),
        torch.zeros(2, 0).long(),
        torch.tensor(1),
        np.full((1, 16), 64, np.int32),
        np.full((1, 16), -1, np.int32),
        np.full((1, 16), 2**64 - 1, np.uint64),
        np.array([["a"] * 16]),
        [[1, 2], [3]],
        None,
        {},
        set(),
        torch.zeros(1, 16, dtype=torch.bool),
        torch.zeros(1, 16, device="meta").long(),
        Image.new("L", (4, 4)),
    ],
)
def test_indices_that_are_no_image_are_refused(checkpoint: Path, indices: torch.Tensor) -> None:
    with pytest.raises(InputError, match="indices"):
        gear.load_tokenizer(checkpoint).decode(indices)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), "float32"),
        (np.zeros((32, 32, 3), np.uint8), r"\(32, 32, 3\)"),
        (np.zeros((1, 32, 36, 3), np.uint8), r"\(1, 32, 36, 3\)"),
        (np.zeros((1, 3, 32, 32), np.uint8), r"\(1, 3, 32, 32\)"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), "NumPy"),
        (np.zeros((1, 30, 30, 3), np.uint8), "a multiple of 4"),
        (np.zeros((1, 0, 0, 3), np.uint8), "a multiple of 4"),
    ],
)
def test_pixels_that_no_tokenizer_takes_are_refused(
    checkpoint: Path, pixels: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gear.load_tokenizer(checkpoint).encode_pixels(pixels)


def test_pixels_may_be_none_or_a_mirrored_view(checkpoint: Path, images: list[Image.Image]) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    pixels = np.stack([np.asarray(image) for image in images])
    assert tokenizer.encode_pixels(pixels[:0]).shape == (0, 64)
    mirrored = tokenizer.encode_pixels(pixels[:, :, ::-1])
    assert torch.equal(mirrored, tokenizer.encode_pixels(pixels[:, :, ::-1].copy()))


@pytest.mark.parametrize("kind", [np.int32, np.uint16, np.uint64])
def test_tokens_of_a_numpy_file_are_decoded(checkpoint: Path, kind: type) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    tokens = torch.arange(64)[None]
    (image,) = tokenizer.decode(tokens.numpy().astype(kind))
    assert image.tobytes() == tokenizer.decode(tokens)[0].tobytes()


def test_tokens_can_be_trained_on(checkpoint: Path, images: list[Image.Image]) -> None:
    generator = gear.load_generator(checkpoint)
    tokens = generator.tokenizer.encode(images)
    assert torch.equal(generator.tokenizer.encode(torch.zeros(0, 3, 32, 32)), tokens[:0])
    output = generator.model(tokens, torch.tensor([0, 1, 2]))
    output.logits.sum().backward()


def same(one: Image.Image, other: Image.Image) -> bool:
    """Return whether images are equal except for rounding in a batch."""
    return bool(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1)


def test_a_sample_depends_on_its_class_and_seed_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = gear.load_generator(checkpoint)
    assert generator.class_names == NAMES
    several = generator.sample(classes=["cat", 0, "2"], seed=5)
    assert len({image.tobytes() for image in several}) == 3
    assert same(generator.sample(classes=[1], seed=5)[0], several[0])
    assert same(generator.sample(classes=["dog"], seed=6)[0], several[1])
    assert len(generator.sample()) == len(NAMES)
    assert generator.sample(classes=[]) == []
    assert [generator.sample([name])[0].tobytes() for name in (2, "2", "bird")].count(
        generator.sample(["bird"])[0].tobytes()
    ) == 3
    guided = generator.sample(classes=["cat"], seed=5, guidance=4.0, top_k=8)
    assert not same(guided[0], several[0])
    monkeypatch.setattr(inference, "CACHE", 1)  # bytes: one image at a time
    alone = generator.sample(classes=["cat", 0, "2"], seed=5)
    assert all(same(*pair) for pair in zip(alone, several, strict=True))


@pytest.mark.parametrize(
    "classes",
    [
        np.array([0, 1]),
        np.array(["dog", "Cat"]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1], dtype=torch.uint8),
        [torch.tensor(0), np.int32(1)],
        range(2),
        iter(["dog", 1]),
    ],
)
def test_classes_come_from_a_list_an_array_or_a_tensor(checkpoint: Path, classes: Any) -> None:
    generator = gear.load_generator(checkpoint)
    expected = generator.sample(classes=[0, 1], seed=3)
    given = generator.sample(classes=classes, seed=3)
    assert [image.tobytes() for image in given] == [image.tobytes() for image in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, r"classes: give a list, such as \[0\]"),
        ({"classes": torch.tensor(0)}, "classes: give a list"),
        ({"classes": torch.tensor([0.0])}, r"classes '0\.0'"),
        ({"classes": torch.tensor([3])}, "classes '3': there are 3"),
        ({"classes": [10**5000]}, "a number has over 9 digits: there are 3, from 0 on"),
        ({"classes": ["9" * 5000]}, "classes '999"),
        ({"classes": [-(10**5000)]}, "a number has over 9 digits"),
        ({"classes": [0], "seed": 10**5000}, "seed: give a number of at most 64 bits"),
        ({"classes": [0], "seed": -(10**5000)}, "seed: give a number of at most 64 bits"),
        ({"classes": [0], "seed": 1.5}, r"seed: give a whole number, not 1\.5"),
        ({"classes": [0], "seed": True}, "seed: give a whole number, not True"),
        ({"classes": [0], "seed": np.float32(2)}, "seed: give a whole number"),
        ({"classes": [0], "seed": "3"}, "seed: give a whole number, not '3'"),
        ({"classes": [0], "seed": None}, "seed: give a whole number"),
        ({"classes": [0], "seed": np.array([1, 2])}, "seed: give a whole number"),
        ({"classes": [0], "seed": 2**63}, "seed: 9223372036854775808 is over 9223372036854775807"),
        ({"classes": [0, 1], "seed": 2**63 - 1}, "is over 9223372036854775806"),
        ({"classes": [0, 1], "seed": np.int64(2**63 - 1)}, "is over 9223372036854775806"),
    ],
)
def test_classes_and_seeds_that_cannot_be_sampled_are_refused(
    checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gear.load_generator(checkpoint).sample(**options)


def test_a_seed_of_numpy_is_its_number(checkpoint: Path) -> None:
    """Unsigned numbers and int64 would be added as float64, in which these seeds are equal."""
    generator = gear.load_generator(checkpoint)
    one, other = generator.sample(classes=[1, 1], seed=np.uint64(2**60 + 1))
    expected = generator.sample(classes=[1, 1], seed=2**60 + 1)
    assert [one.tobytes(), other.tobytes()] == [image.tobytes() for image in expected]
    assert one.tobytes() != other.tobytes()


def test_the_largest_seed_is_sampled(checkpoint: Path) -> None:
    assert len(gear.load_generator(checkpoint).sample(classes=[0, 1], seed=2**63 - 2)) == 2


def test_what_a_generator_does_not_know_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    generator = gear.load_generator(checkpoint)
    with pytest.raises(InputError, match="classes 'cow': there are 3, by name or number: dog, Cat"):
        generator.sample(classes=["cow"])
    with pytest.raises(InputError, match="classes, not captions"):
        generator.sample(prompts=["a dog"])
    with pytest.raises(InputError, match=r"sample: .*guidance"):
        generator.sample(guidance=0.5)
    with pytest.raises(InputError, match="classes: give a list"):
        generator.sample("dog")
    with pytest.raises(InputError, match="seed: -1"):
        generator.sample(seed=-1)
    with pytest.raises(InputError, match=r"no such folder .*dvc repro generator"):
        gear.load_generator("no/such/folder")
    shutil.copytree(checkpoint, tmp_path / "copy")
    file = tmp_path / "copy/generator/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class_names": None}))
    with pytest.raises(InputError, match="no class_names"):
        gear.load_generator(tmp_path / "copy")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class_names": [*NAMES, "cow"]}))
    with pytest.raises(InputError, match="4 class_names for 3 classes"):
        gear.load_generator(tmp_path / "copy")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"grid": -8}))
    with pytest.raises(InputError, match="grid is -8"):
        gear.load_tokenizer(tmp_path / "copy")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty cache of the Hub, in offline mode."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_saved_model_is_loaded_from_a_cache_of_the_hub(
    checkpoint: Path, hub: Path, tmp_path: Path
) -> None:
    generator = gear.load_generator(checkpoint)
    generator.save_pretrained(tmp_path / "saved")
    for file in ("tokenizer/model.safetensors", "generator/model.safetensors"):
        saved, own = load_file(tmp_path / "saved" / file), load_file(checkpoint / file)
        assert all(torch.equal(saved[name], own[name]) for name in own)
    card = (tmp_path / "saved/README.md").read_text()
    assert "library_name: gear-autoregression" in card
    assert "| conditioned on | 3 classes |" in card
    files = {str(f.relative_to(tmp_path / "saved")) for f in (tmp_path / "saved").rglob("*.*")}
    assert files == {
        "README.md",
        *(f"{part}/{name}" for part in ("tokenizer", "generator") for name in (CONFIG, WEIGHTS)),
    }
    with pytest.raises(InputError, match="the Hugging Face Hub does not give it"):
        gear.load_generator("somebody/gear")
    snapshot = hub / "models--somebody--gear" / "snapshots" / ("0" * 40)
    shutil.copytree(tmp_path / "saved", snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    again = gear.ImageGenerator.from_pretrained("somebody/gear")
    expected = generator.sample(classes=["bird"])[0]
    assert same(again.sample(classes=["bird"])[0], expected)
    tokens = gear.load_tokenizer("somebody/gear").encode(expected)
    assert torch.equal(tokens, generator.tokenizer.encode(expected))


@pytest.mark.parametrize("load", [gear.load_tokenizer, gear.load_generator])
def test_a_revision_of_a_local_folder_is_refused(checkpoint: Path, load: Any) -> None:
    with pytest.raises(InputError, match=r"revision v1: .* is a local folder"):
        load(checkpoint, revision="v1")


class ReadError(Exception):
    """Stands for the error of an HTTP client, which need not be an OSError."""


@pytest.mark.parametrize("error", [ReadError("the peer\nhung up"), ReadError("")])
def test_a_connection_that_drops_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def drop(*args: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(hub_model, "snapshot_download", drop)
    with pytest.raises(InputError, match=r"somebody/gear: no such folder, and .*: ") as caught:
        gear.load_tokenizer("somebody/gear")
    said = str(caught.value)
    assert said.endswith(("the peer hung up", "ReadError"))
    assert "\n" not in said


def test_what_is_saved_are_the_weights_of_this_moment(
    checkpoint: Path, images: list[Image.Image], tmp_path: Path
) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    before = tokenizer.encode(images)
    with torch.no_grad():
        tokenizer.model.encoder.conv_in.weight.mul_(-1)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = gear.load_tokenizer(tmp_path / "saved")
    assert again.size == tokenizer.size == 32
    assert torch.equal(again.encode(images), tokenizer.encode(images))
    assert not torch.equal(again.encode(images), before)


def test_a_model_is_not_saved_over_the_one_it_came_from(checkpoint: Path) -> None:
    config = (checkpoint / "tokenizer/config.json").read_bytes()
    with pytest.raises(InputError, match="loaded from this folder"):
        gear.load_tokenizer(checkpoint).save_pretrained(checkpoint / "tokenizer")
    with pytest.raises(InputError, match="loaded from this folder"):
        gear.load_generator(checkpoint).save_pretrained(checkpoint)
    assert (checkpoint / "tokenizer/config.json").read_bytes() == config


def test_a_model_is_not_saved_into_a_folder_of_another_kind(
    checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer, generator = gear.load_tokenizer(checkpoint), gear.load_generator(checkpoint)
    tokenizer.save_pretrained(tmp_path / "t")
    generator.save_pretrained(tmp_path / "g")
    with pytest.raises(InputError, match=r"config\.json of another kind of model is in it"):
        generator.save_pretrained(tmp_path / "t")
    with pytest.raises(InputError, match="tokenizer of another kind of model is in it"):
        tokenizer.save_pretrained(tmp_path / "g")
    with pytest.raises(InputError, match="of another kind of model is in it"):
        generator.save_pretrained(checkpoint / "tokenizer")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        generator.save_pretrained(tmp_path / "file")
    assert gear.load_tokenizer(tmp_path / "t").size == 32
    generator.save_pretrained(tmp_path / "g")
    again = gear.load_generator(tmp_path / "g")
    again.save_pretrained(tmp_path / "g/copy")  # nothing of the original is in its way
    assert gear.load_generator(tmp_path / "g/copy").class_names == again.class_names


def test_a_generator_of_captions_draws_prompts_and_keeps_paths_to_itself(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = load_preset("tiny")
    folder = tmp_path / "captions"
    shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    text = {"encoder": "minilm", "path": "", "sha256": "", "tokens": 32}
    empty = torch.from_numpy(TextEncoder(TextConfig.pick(text), torch.device("cpu"))([""])[0])
    torch.manual_seed(0)
    generator = Generator(
        config.generator, codes=config.tokenizer.codes, grid=config.grid, empty_caption=empty
    )
    torch.nn.init.normal_(generator.output.weight, std=0.3)
    facts = {"codes": config.tokenizer.codes, "grid": config.grid, "condition": "caption"}
    shape = config.generator.model_dump(mode="json")
    facts |= {"text": {**text, "path": "/home/me/qwen3"}, "generator": shape}
    save_model(folder / "generator", generator.state_dict(), facts)
    model = gear.load_generator(folder, text_encoder="")
    several = model.sample(prompts=["red heart", "a dog"], seed=3)
    assert same(model.sample(prompts=["a dog"], seed=4)[0], several[1])
    with pytest.raises(InputError, match="give prompts"):
        model.sample(classes=[0])
    with pytest.raises(InputError, match="prompts: give a list"):
        model.sample(prompts="red heart")
    gear.load_generator(folder).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/generator/config.json").read_text())
    assert saved["text"] == text
    assert "captions, by the text encoder minilm" in (tmp_path / "saved/README.md").read_text()


def test_the_card_of_a_tokenizer_says_how_to_load_it(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    rows = [{"name": "rFID", "value": 3.2, "protocol": "50,000 images"}]
    tokenizer.save_pretrained(
        tmp_path / "saved", model_card_kwargs={"data": "Pictures.", "metrics": rows}
    )
    card = (tmp_path / "saved/README.md").read_text()
    assert "gear.load_tokenizer" in card
    assert "Pictures." in card
    assert "| rFID | 3.2 | 50,000 images |" in card
    indices = torch.arange(64)
    (expected,) = tokenizer.decode(indices)
    assert same(gear.load_tokenizer(tmp_path / "saved").decode(indices)[0], expected)


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return repositories and model cards that are uploaded, to the account `me`, in a list."""
    calls: list[tuple[str, str]] = []

    def create_repo(api: HfApi, repo_id: str, **options: Any) -> RepoUrl:
        owned = repo_id if "/" in repo_id else f"me/{repo_id}"
        return RepoUrl(f"https://huggingface.co/{owned}")

    def upload_folder(api: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        calls.append((repo_id, (folder_path / "README.md").read_text()))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def test_an_uploaded_card_names_the_repository_with_its_owner(
    checkpoint: Path, uploaded: list[tuple[str, str]]
) -> None:
    gear.load_tokenizer(checkpoint).push_to_hub("tok")
    ((repository, card),) = uploaded
    assert repository == "me/tok"
    assert 'gear.load_tokenizer("me/tok")' in card


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"repo_id": "you/tok"}, "you/tok"), ({"repo_id": "tok"}, "me/tok"), ({}, "me/saved")],
)
def test_a_saved_and_uploaded_card_names_the_repository(
    checkpoint: Path,
    tmp_path: Path,
    uploaded: list[tuple[str, str]],
    options: dict[str, str],
    expected: str,
) -> None:
    tokenizer = gear.load_tokenizer(checkpoint)
    tokenizer.save_pretrained(tmp_path / "saved", push_to_hub=True, **options)
    ((repository, card),) = uploaded
    assert repository == expected
    assert f'gear.load_tokenizer("{expected}")' in card
    assert (tmp_path / "saved/README.md").read_text() == card


def test_metrics_and_version_have_names() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(50, 4)), random.normal(1, 2, size=(60, 4))
    assert gear.frechet_distance(first, second) == distance(first, second)
    assert gear.__version__.count(".") == 2
    assert {"load_tokenizer", "load_generator", "__version__"} <= set(dir(gear))
    with pytest.raises(AttributeError, match="nothing"):
        gear.nothing  # noqa: B018


def test_import_loads_no_torch_and_warns_of_nothing() -> None:
    code = "import gear, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
