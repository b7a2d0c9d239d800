"""Trained models in Python: images to tokens and back, samples, and the Hugging Face Hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image

from gear.core.errors import InputError
from gear.core.model_folder import CONFIG, WEIGHTS, read_config
from gear.core.settings import parse_section
from gear.core.text import one_line
from gear.data.captions import normalize_caption
from gear.data.row_selection import BATCH, batches
from gear.encoders.config import TextConfig
from gear.encoders.text import TextEncoder
from gear.generator import inference
from gear.generator.conditioning import pack
from gear.generator.conditions import Conditions
from gear.generator.config import SampleConfig
from gear.generator.sampling import sample
from gear.generator.transformer import Generator
from gear.ingest.decode import square, upright_opaque
from gear.tokenizer import inference as tokenizer_inference
from gear.tokenizer.model import Tokenizer

Images = Image.Image | torch.Tensor | Sequence[Image.Image]

LIBRARY = "gear-autoregression"
PAPER = "https://arxiv.org/abs/2606.32039"
TAGS = ("gear", "image-generation", "autoregressive", "vector-quantization")
FILES = ("*.json", "*.safetensors", "README.md")  # of a repository on the Hub; no code is loaded
CARD = """---
{{ card_data }}
---

# {{ title }}

{{ summary }}

| | |
|---|---|
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
{% if data %}
## Training data
{{ data }}
{% endif %}
{% if metrics %}
## Metrics
| metric | value | protocol |
|---|---|---|
{% for row in metrics -%}
| {{ row.name }} | {{ row.value }} | {{ row.protocol }} |
{% endfor %}
{% endif %}
## Use it
    pip install {{ library }}

```python
import gear

{{ usage }}
```

Paper: {{ paper }}.
"""


class ImageTokenizer(ModelHubMixin, library_name=LIBRARY, model_card_template=CARD, tags=[*TAGS]):
    """A trained tokenizer.

    model: The module; its images are (B, 3, H, W) in [-1, 1].
    size: Pixels a side that images are brought to; None if the folder does not say which were
        trained on: then images keep their size, cropped to a square of whole tokens.
    """

    def __init__(self, model: Tokenizer, folder: Path, size: int | None = None) -> None:
        self.model, self.folder, self.size = model, folder, size

    @property
    def stride(self) -> int:
        """Pixels a side of a token."""
        return _stride(self.model)

    @torch.inference_mode()
    def encode(self, images: Images) -> torch.Tensor:
        """Return the token indices of images, (N, L) int64 on the CPU, in raster order.

        Args:
            images: A PIL image or a list of them, which are cropped to squares and resized; or a
                tensor (3, S, S) or (N, 3, S, S) in [-1, 1], which is taken as it is.

        Raises:
            InputError: if a tensor has another shape, other values, or a side that tokens do not
                divide.
        """
        if not isinstance(images, torch.Tensor):
            several = [images] if isinstance(images, Image.Image) else images
            if not several:
                raise InputError("no image to encode")
            return self.encode_pixels(np.stack([np.asarray(self.prepare(one)) for one in several]))
        tensor = images[None] if images.dim() == 3 else images
        self._require_images(tensor)
        device = next(self.model.parameters()).device
        return torch.cat(
            [
                self.model.encode(tensor[part].to(device).float()).indices.cpu()
                for part in batches(len(tensor))
            ]
        )

    def encode_pixels(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the token indices of images (N, S, S, 3) uint8, (N, L) int64 on the CPU."""
        return torch.from_numpy(tokenizer_inference.encode_images(self.model, pixels))

    def decode(self, indices: torch.Tensor) -> list[Image.Image]:
        """Return the images of token indices (N, L) or (L,) on a square grid.

        Raises:
            InputError: if L is no square number, or an index is none of the codebook.
        """
        indices = indices[None] if indices.dim() == 1 else indices
        codes, side = self.model.config.codes, round(indices.shape[-1] ** 0.5)
        if indices.dim() != 2 or side**2 != indices.shape[1]:
            raise InputError(f"indices of shape {tuple(indices.shape)}: give (N, L), L a square")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < codes:
            raise InputError(f"indices go from 0 to {codes - 1}")
        if not len(indices):
            return []
        pixels = tokenizer_inference.decode_tokens(self.model, indices.cpu().numpy())
        return [Image.fromarray(one) for one in pixels]

    def prepare(self, image: Image.Image) -> Image.Image:
        """Return what `encode` makes of an image: a square, on white if it is transparent."""
        size = self.size or max(1, min(image.size) // self.stride) * self.stride
        return Image.fromarray(square(upright_opaque(image), size))

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        self.model.to(device)
        return self

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub's other options are of no use here
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> ImageTokenizer:
        """Return `load_tokenizer(...)`."""
        return load_tokenizer(pretrained_model_name_or_path, revision=revision)

    def generate_model_card(self, *args: Any, **facts: Any) -> Any:
        """Return the README.md of the folder on the Hub."""
        shape = self.model.config
        own = {
            "quantizer": f"{shape.quantizer}, {shape.codes} codes",
            "pixels a side of a token": self.stride,
            "parameters": f"{_count(self.model) / 1e6:.1f} M",
        }
        usage = 'tokenizer = gear.load_tokenizer("this folder")\ntokens = tokenizer.encode(image)'
        given = {"title": "Image tokenizer", "summary": "A vector-quantized image tokenizer."}
        return _card(super().generate_model_card, {**given, **facts}, own, usage)

    def _require_images(self, tensor: torch.Tensor) -> None:
        if tensor.dim() != 4 or tensor.shape[1] != 3 or tensor.shape[2] != tensor.shape[3]:
            raise InputError(f"images of shape {tuple(tensor.shape)}: give (N, 3, S, S)")
        if not tensor.is_floating_point() or (len(tensor) and tensor.abs().max() > 1.001):
            raise InputError("images go from -1 to 1, floating point: PIL images are scaled")
        if tensor.shape[2] % self.stride or not tensor.shape[2]:
            raise InputError(
                f"images of {tensor.shape[2]} pixels a side: take a multiple of {self.stride}"
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        _copy_models(self.folder, save_directory, ("",))


class ImageGenerator(ModelHubMixin, library_name=LIBRARY, model_card_template=CARD, tags=[*TAGS]):
    """A trained generator with its tokenizer.

    model: The transformer. tokenizer: what decodes its tokens.
    class_names: Names of its classes; empty if it is conditioned on captions.
    """

    def __init__(self, model: Generator, tokenizer: ImageTokenizer, folder: Path) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        config = read_config(folder / "generator")
        self.condition = "caption" if config.get("condition") == "caption" else "class"
        names = config.get("class_names")
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if self.condition == "class" and not known:
            raise InputError(f"{folder / 'generator' / CONFIG}: no class_names in it")
        self.class_names: list[str] = names if self.condition == "class" and names else []
        self._text = config.get("text") or {}

    def sample(
        self,
        classes: Iterable[str | int] | None = None,
        prompts: Iterable[str] | None = None,
        *,
        seed: int = 0,
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Image.Image]:
        """Return an image for each of the classes, names or numbers, or for each of the prompts.

        Image i is drawn with `seed + i`, whatever else is drawn with it.

        Args:
            classes: For a generator of classes; by default one image of each.
            prompts: For a generator of captions.
            seed: 0 or more.
            guidance: Classifier-free guidance scale; 1 for none.
            interval: Shares of the sequence between which guidance holds.
            temperature: Divides logits.
            top_k: Keep the k likeliest codes; 0 for all.
            top_p: Keep the likeliest codes up to this mass; 1 for all.

        Raises:
            InputError: if a class is not known, the wrong one of both is given, or a value is not
                allowed.
        """
        options = {"guidance": guidance, "interval": interval, "temperature": temperature}
        settings = parse_section(
            SampleConfig, {**options, "top_k": top_k, "top_p": top_p}, "sample: "
        )
        count, conditions = self.conditions(classes, prompts)
        seeds = seed + np.arange(count)
        return self.tokenizer.decode(self.draw(conditions, np.arange(count), seeds, settings))

    def conditions(
        self, classes: Iterable[str | int] | None, prompts: Iterable[str] | None
    ) -> tuple[int, Conditions]:
        """Return the number of classes or prompts, and a function from positions to conditions.

        Raises:
            InputError: as `sample`.
        """
        if self.condition == "class":
            if prompts is not None:
                raise InputError("this generator knows classes, not captions: give classes")
            wanted = range(len(self.class_names)) if classes is None else classes
            labels = np.array([class_index(name, self.class_names) for name in wanted], np.int64)
            return len(labels), lambda rows: torch.from_numpy(labels[rows])
        if classes is not None or prompts is None:
            raise InputError("this generator is conditioned on captions: give prompts")
        captions = [normalize_caption(prompt) for prompt in prompts]
        states = TextEncoder(TextConfig.pick(self._text), torch.device("cpu"))(captions)
        return len(states), lambda rows: pack([states[row] for row in rows])

    def draw(
        self, conditions: Conditions, rows: np.ndarray, seeds: np.ndarray, settings: SampleConfig
    ) -> torch.Tensor:
        """Return token indices (N, L) int64 on the CPU: of the conditions at N rows, N seeds."""
        parts = [
            sample(self.model, conditions(rows[part]), seeds[part], settings).cpu()
            for part in batches(len(seeds), BATCH)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.model.tokens, dtype=torch.int64)

    def to(self, device: torch.device | str) -> Self:
        """Move both models to a device."""
        self.model.to(device)
        self.tokenizer.to(device)
        return self

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub's other options are of no use here
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> ImageGenerator:
        """Return `load_generator(...)`."""
        return load_generator(pretrained_model_name_or_path, revision=revision)

    def generate_model_card(self, *args: Any, **facts: Any) -> Any:
        """Return the README.md of the folder on the Hub."""
        shape = self.tokenizer.model.config
        asked = "classes=[0, 1]" if self.condition == "class" else 'prompts=["red heart"]'
        own = {
            "images": f"{self.tokenizer.size} px, {self.model.tokens} tokens",
            "conditioned on": "captions"
            if self.condition == "caption"
            else f"{len(self.class_names)} classes",
            "parameters of the generator": f"{_count(self.model) / 1e6:.1f} M",
            "tokenizer": f"{shape.quantizer}, {shape.codes} codes, "
            f"{_count(self.tokenizer.model) / 1e6:.1f} M parameters",
        }
        usage = (
            f'generator = gear.load_generator("this folder")\nimages = generator.sample({asked})'
        )
        given = {
            "title": "Image generator",
            "summary": "An autoregressive image generator with its vector-quantized tokenizer.",
        }
        return _card(super().generate_model_card, {**given, **facts}, own, usage)

    def _save_pretrained(self, save_directory: Path) -> None:
        _copy_models(self.folder, save_directory, ("tokenizer", "generator"))


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> ImageTokenizer:
    """Return a trained tokenizer, on the CPU, in eval mode.

    Args:
        path: A folder with model.safetensors and config.json, one that has `tokenizer/`, or a
            repository on the Hugging Face Hub, `owner/name`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    folder = _find(path, revision)
    root = folder if (folder / CONFIG).exists() else folder / "tokenizer"
    model = tokenizer_inference.load_tokenizer(root)
    beside = root.parent / "generator"
    grid = read_config(beside).get("grid") if (beside / CONFIG).exists() else None
    return ImageTokenizer(model, root, grid * _stride(model) if isinstance(grid, int) else None)


def load_generator(path: str | Path, *, revision: str | None = None) -> ImageGenerator:
    """Return a trained generator with its tokenizer, on the CPU, in eval mode.

    Args:
        path: A folder that has `tokenizer/` and `generator/`, such as `data/models/generator`, or a
            repository on the Hugging Face Hub, `owner/name`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: if there is none, it is damaged, or the two do not belong together.
    """
    folder = _find(path, revision)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = inference.load_generator(folder / "generator")
    codes = tokenizer.model.config.codes
    if model.codes != codes:
        raise InputError(
            f"{folder}: a generator of {model.codes} codes beside a tokenizer of {codes}"
        )
    return ImageGenerator(model, tokenizer, folder)


def class_index(name: str | int, names: Sequence[str]) -> int:
    """Return a class by its name (any case) or its number. Raises `InputError`.

    >>> class_index("Cat", ["dog", "cat"]), class_index("0", ["dog", "cat"]), class_index(1, "ab")
    (1, 0, 1)
    """
    folded = [one.casefold() for one in names]
    text = str(name)
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if text.isdigit() and int(text) < len(names):
        return int(text)
    known = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise InputError(f"classes {text[:80]!r}: there are {len(names)}, by name or number: {known}")


def _stride(tokenizer: Tokenizer) -> int:
    stride: int = 2 ** (len(tokenizer.config.multipliers) - 1)
    return stride


def _find(path: str | Path, revision: str | None) -> Path:
    """Return a local folder, or that of a repository of the Hub in its cache."""
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=[*FILES]))
    except HFValidationError:
        raise InputError(f"{path}: no such folder, and no owner/name of the Hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{path}: no such folder, and not to be had from the Hugging Face Hub: "
            f"{one_line(str(error), 200)}"
        ) from None


def _copy_models(folder: Path, target: Path, parts: Iterable[str]) -> None:
    for part in parts:
        (target / part).mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / part / name, target / part / name)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _card(build: Any, given: dict[str, Any], own: dict[str, Any], usage: str) -> Any:
    facts = {**own, **given.pop("facts", {})}
    values = {"data": "", "metrics": [], **given}
    return build(facts=facts, usage=usage, library=LIBRARY, paper=PAPER, **values)
