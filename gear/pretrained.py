"""Python API of trained models: encode and decode images, sample, and use the Hugging Face Hub."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from PIL import Image

from gear.core.errors import InputError
from gear.core.model_folder import (
    CONFIG,
    WEIGHTS,
    read_config,
    read_number,
    read_shape,
    save_model,
)
from gear.core.settings import parse_section
from gear.core.text import one_line
from gear.data.captions import normalize_caption
from gear.data.row_selection import BATCH, batches
from gear.encoders.config import TextConfig
from gear.encoders.text import TextEncoder
from gear.generator import inference
from gear.generator.conditioning import pack
from gear.generator.conditions import Conditions
from gear.generator.config import GeneratorShape, SampleConfig
from gear.generator.sampling import sample
from gear.generator.transformer import Generator
from gear.hub_model import HubModel, find_folder, shareable_config
from gear.ingest.decode import reject_reason, square
from gear.tokenizer import inference as tokenizer_inference
from gear.tokenizer.model import Tokenizer

Images = Image.Image | torch.Tensor | Iterable[Image.Image]

LARGEST_SIZE = 2048  # maximum pixels a side
LARGEST_SEED = 2**63 - 1
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)
LONGEST_INDEX = 9  # digits of a class's index


class ImageTokenizer(HubModel):
    """A trained tokenizer.

    Attributes:
        model: The module; its images are (B, 3, H, W) in [-1, 1].
        size: Pixels a side that PIL images are resized to, as in training: a multiple of `stride`,
            up to 2048. None if the folder does not record it; set it before encoding PIL images.
    """

    not_beside = ("tokenizer", "generator")

    def __init__(self, model: Tokenizer, folder: Path, size: int | None = None) -> None:
        self.model, self.folder = model, folder
        self.size = size
        self._config = read_config(folder)

    @property
    def size(self) -> int | None:
        """Pixels a side that PIL images are resized to; None if it is not known.

        Raises:
            InputError: if it is set to anything but a multiple of `stride` up to 2048.
        """
        return self._size

    @size.setter
    def size(self, size: SupportsIndex | None) -> None:
        if size is not None:
            size = _whole_number(size, "tokenizer.size")  # JSON has no NumPy integers
            require_size(size, self.stride, f"tokenizer.size {size}")
        self._size = size

    @property
    def stride(self) -> int:
        """Side of a token in pixels."""
        return self.model.config.factor

    @torch.no_grad()
    def encode(self, images: Images) -> torch.Tensor:
        """Return the token indices of images, (N, L) int64 on the CPU, in raster order.

        Args:
            images: A PIL image or a list of them, which are cropped to squares and resized; or a
                tensor (3, S, S) or (N, 3, S, S) in [-1, 1], which is used as it is.

        Raises:
            InputError: if the list is empty or holds anything but PIL images, an image is too small
                or too large, `size` is None, a tensor has another shape, other values, or a side
                that `stride` does not divide, or the model is in float64.
        """
        if not isinstance(images, torch.Tensor):
            pictures = _pictures(images)
            squares = []
            for number, picture in enumerate(pictures):
                try:
                    squares.append(np.asarray(self.prepare(picture)))
                except InputError as error:
                    place = f"image {number} of {len(pictures)}, " if len(pictures) > 1 else ""
                    raise InputError(f"{place}{error}") from None
            return self.encode_pixels(np.stack(squares))
        tensor = images[None] if images.dim() == 3 else images
        self._require_images(tensor)
        device = next(self.model.parameters()).device
        indices = [torch.zeros(0, (tensor.shape[2] // self.stride) ** 2, dtype=torch.int64)]
        for part in batches(len(tensor), tokenizer_inference.images_at_once(tensor.shape[2])):
            with self._autocast():
                indices.append(self.model.encode(tensor[part].to(device).float()).indices.cpu())
        return torch.cat(indices)

    def encode_pixels(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the token indices (N, L), int64 on the CPU, of images (N, S, S, 3), uint8.

        Raises:
            InputError: if the array has another type or shape, or a side that `stride` does not
                divide, or the model is in float64.
        """
        if not isinstance(pixels, np.ndarray):
            raise InputError("pixels: give a NumPy array (N, S, S, 3) of uint8")
        shape = pixels.shape
        is_square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        if pixels.dtype != np.uint8 or not is_square:
            raise InputError(
                f"pixels of shape {shape} and type {pixels.dtype}: give (N, S, S, 3) of uint8"
            )
        self._require_side(shape[1])
        if not len(pixels):
            return torch.zeros(0, (shape[1] // self.stride) ** 2, dtype=torch.int64)
        pixels = np.ascontiguousarray(pixels)  # PyTorch takes no mirrored views
        with self._autocast():
            return torch.from_numpy(tokenizer_inference.encode_images(self.model, pixels))

    def decode(self, indices: torch.Tensor | np.ndarray) -> list[Image.Image]:
        """Return the images of token indices (N, L) or (L,), in raster order on a square grid.

        Raises:
            InputError: if L is not a square number, an index is no integer from 0 to codes - 1, or
                the model is in float64.
        """
        try:
            indices = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"indices: {one_line(str(error), 150)}") from None
        indices = indices[None] if indices.dim() == 1 else indices
        codes, shape = self.model.config.codes, tuple(indices.shape)
        if len(shape) != 2 or shape[1] < 1 or round(shape[1] ** 0.5) ** 2 != shape[1]:
            raise InputError(f"indices of shape {shape}: give (N, L), L a square number")
        if indices.dtype not in WHOLE or indices.layout != torch.strided or indices.is_meta:
            raise InputError(f"indices of type {indices.dtype}: give whole numbers")
        indices = indices.long()  # PyTorch has no minimum of some unsigned types
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < codes:
            raise InputError(f"indices go from 0 to {codes - 1}")
        if not len(indices):
            return []
        with self._autocast():
            pixels = tokenizer_inference.decode_tokens(self.model, indices.cpu().numpy())
        return [Image.fromarray(one) for one in pixels]

    def prepare(self, image: Image.Image) -> Image.Image:
        """Crop and resize an image to a square of `size` pixels a side, as `encode` does.

        It is rotated by its EXIF orientation, and a transparent image gets a white background.

        Raises:
            InputError: if the image is too small or too large, or `size` is None.
        """
        if self.size is None:
            raise InputError(
                f"{self.folder}: its config.json does not say on which size it was trained: set "
                f"tokenizer.size, a multiple of {self.stride}"
            )
        try:
            return Image.fromarray(square(image, self.size))
        except Exception as error:  # decoders of damaged files raise errors of every kind
            raise InputError(f"image: {one_line(reject_reason(error), 150)}") from None

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub's other options are of no use here
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> ImageTokenizer:
        """Return `load_tokenizer(...)`."""
        return load_tokenizer(pretrained_model_name_or_path, revision=revision)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the tokenizer's title, summary, facts and usage for its model card."""
        shape = self.model.config
        facts = {
            "quantizer": f"{shape.quantizer}, {shape.codes} codes",
            "pixels a side of a token": self.stride,
            "parameters": f"{_count(self.model) / 1e6:.1f} M",
        }
        return {
            "title": "Image tokenizer",
            "summary": "A vector-quantized image tokenizer.",
            "facts": facts,
            "usage": f'tokenizer = gear.load_tokenizer("{name}")\ntokens = tokenizer.encode(image)',
        }

    def modules(self) -> list[torch.nn.Module]:
        """Return the tokenizer's module."""
        return [self.model]

    def _require_images(self, tensor: torch.Tensor) -> None:
        if tensor.dim() != 4 or tensor.shape[1] != 3 or tensor.shape[2] != tensor.shape[3]:
            raise InputError(f"images of shape {tuple(tensor.shape)}: give (N, 3, S, S)")
        self._require_side(tensor.shape[2])
        is_plain = tensor.dtype in FLOATING and tensor.layout == torch.strided
        if not is_plain or tensor.is_meta or (len(tensor) and not tensor.abs().max() <= 1.001):
            raise InputError("a tensor of images has floating-point numbers from -1 to 1")

    def _require_side(self, side: int) -> None:
        if side % self.stride or not side:
            raise InputError(f"images of {side} pixels a side: take a multiple of {self.stride}")

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which a model in half precision takes images and codes in float32."""
        weight = next(self.model.parameters())
        if weight.dtype == torch.float32:
            return nullcontext()
        if weight.dtype not in (torch.float16, torch.bfloat16):
            raise InputError(f"tokenizer.model is in {weight.dtype}: call tokenizer.model.float()")
        return torch.autocast(weight.device.type, weight.dtype)

    def _save_pretrained(self, save_directory: Path) -> None:
        size = {} if self.size is None else {"size": self.size}
        save_model(save_directory, self.model.state_dict(), {**self._config, **size})


class ImageGenerator(HubModel):
    """A trained generator with its tokenizer.

    Attributes:
        model: The transformer.
        tokenizer: The tokenizer that decodes its tokens.
        condition: "class" or "caption".
        class_names: Names of its classes; empty if it is conditioned on captions.
    """

    not_beside = (CONFIG, WEIGHTS)

    def __init__(
        self,
        model: Generator,
        tokenizer: ImageTokenizer,
        folder: Path,
        text_encoder: str | Path | None = None,
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self._config = read_config(folder / "generator")
        self.condition = "caption" if self._config.get("condition") == "caption" else "class"
        self.class_names = [] if self.condition == "caption" else self._read_class_names()
        text = self._config.get("text")
        self._text: dict[str, Any] = text if isinstance(text, dict) else {}
        if text_encoder is not None:
            self._text = {**self._text, "path": str(text_encoder)}

    def sample(
        self,
        classes: Iterable[str | int] | None = None,
        prompts: Iterable[str] | None = None,
        *,
        seed: SupportsIndex = 0,
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Image.Image]:
        """Sample one image for each class or each prompt.

        Image i is drawn with `seed + i` and does not depend on the other images, except for
        rounding, which depends on the batch. On a GPU, which samples in bf16, rounding can change
        some tokens.

        Args:
            classes: Names or indices, for a class-conditional generator, as a list, array or
                tensor; default: each class once.
            prompts: Captions, for a caption-conditional generator.
            seed: 0 or more; `seed + i` is at most 2**63 - 1.
            guidance: Classifier-free guidance scale; 1 for no guidance.
            interval: Start and end of guidance, as fractions of the sequence in [0, 1].
            temperature: Divides the logits.
            top_k: Number of most probable codes to sample from; 0 for all.
            top_p: Probability mass of the most probable codes to sample from; 1 for all.

        Raises:
            InputError: if there is no such class, prompts are given to a class-conditional
                generator or classes to a caption-conditional one, or a value is not allowed.
        """
        seed = _whole_number(seed, "sample: seed")
        if seed < 0:
            raise InputError(f"sample: seed: {seed} is less than 0")
        options = {"guidance": guidance, "interval": interval, "temperature": temperature}
        settings = parse_section(
            SampleConfig, {**options, "top_k": top_k, "top_p": top_p}, "sample: "
        )
        count, conditions = self.conditions(classes, prompts)
        largest = LARGEST_SEED - max(count - 1, 0)
        if seed > largest:
            raise InputError(f"sample: seed: {seed} is over {largest}, the last for {count} images")
        seeds = seed + np.arange(count)
        return self.tokenizer.decode(self.draw(conditions, np.arange(count), seeds, settings))

    def conditions(
        self, classes: Iterable[str | int] | None, prompts: Iterable[str] | None
    ) -> tuple[int, Conditions]:
        """Return the number of classes or prompts, and a function from positions to conditions.

        Raises:
            InputError: as in `sample`.
        """
        for name, value in (("classes", classes), ("prompts", prompts)):
            if value is not None and not _is_iterable(value):
                shown = repr(value[:40] if isinstance(value, str) else value)
                raise InputError(f"{name}: give a list, such as [{shown[:60]}]")
        if self.condition == "class":
            if prompts is not None:
                raise InputError("this generator knows classes, not captions: give classes")
            wanted = range(len(self.class_names)) if classes is None else classes
            labels = np.array([class_index(name, self.class_names) for name in wanted], np.int64)
            return len(labels), lambda rows: torch.from_numpy(labels[rows])
        if classes is not None or prompts is None:
            raise InputError("this generator is conditioned on captions: give prompts")
        states = self._text_encoder([normalize_caption(prompt) for prompt in prompts])
        return len(states), lambda rows: pack([states[row] for row in rows])

    def draw(
        self, conditions: Conditions, rows: np.ndarray, seeds: np.ndarray, settings: SampleConfig
    ) -> torch.Tensor:
        """Sample token indices, (N, L) int64 on the CPU; rows, seeds: condition and seed, (N,)."""
        tokens = [torch.zeros(0, self.model.tokens, dtype=torch.int64)]
        for part in batches(len(seeds), BATCH):
            condition = conditions(rows[part])
            size = inference.images_at_once(self.model, condition, settings)
            for piece in batches(len(condition), size):
                drawn = sample(self.model, condition[piece], seeds[part][piece], settings)
                tokens.append(drawn.cpu())
        return torch.cat(tokens)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub's other options are of no use here
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> ImageGenerator:
        """Return `load_generator(...)`."""
        return load_generator(pretrained_model_name_or_path, revision=revision)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the generator's title, summary, facts and usage for its model card."""
        shape, captions = self.tokenizer.model.config, self.condition == "caption"
        condition = f"{len(self.class_names)} classes"
        if captions:
            condition = f"captions, by the text encoder {self._text.get('encoder', 'unknown')}"
        facts = {
            "images": f"{self.tokenizer.size} px, {self.model.tokens} tokens",
            "conditioned on": condition,
            "parameters of the generator": f"{_count(self.model) / 1e6:.1f} M",
            "tokenizer": f"{shape.quantizer}, {shape.codes} codes, "
            f"{_count(self.tokenizer.model) / 1e6:.1f} M parameters",
        }
        asked = 'prompts=["red heart"]' if captions else "classes=[0, 1]"
        return {
            "title": "Image generator",
            "summary": "An autoregressive image generator with its vector-quantized tokenizer.",
            "facts": facts,
            "usage": f'generator = gear.load_generator("{name}")\n'
            f"images = generator.sample({asked})",
        }

    def modules(self) -> list[torch.nn.Module]:
        """Return the generator's module and the tokenizer's."""
        return [self.model, self.tokenizer.model]

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(TextConfig.pick(self._text), self.model.output.weight.device)

    def _read_class_names(self) -> list[str]:
        file = self.folder / "generator" / CONFIG
        names = self._config.get("class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{file}: no class_names in it")
        if len(names) != self.model.classes:
            raise InputError(f"{file}: {len(names)} class_names for {self.model.classes} classes")
        return names

    def _save_pretrained(self, save_directory: Path) -> None:
        self.tokenizer._save_pretrained(save_directory / "tokenizer")
        config = shareable_config(self._config)
        save_model(save_directory / "generator", self.model.state_dict(), config)


def require_size(size: int, stride: int, name: str) -> None:
    """Check the size that a tokenizer's images are resized to.

    Args:
        size: Pixels a side.
        stride: Side of a token in pixels.
        name: The size in the words of the error, such as `--size 30`.

    Raises:
        InputError: if it is no multiple of `stride`, or not between `stride` and LARGEST_SIZE.
    """
    if size < 1 or size % stride or size > LARGEST_SIZE:
        raise InputError(f"{name}: take a multiple of {stride} up to {LARGEST_SIZE}")


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> ImageTokenizer:
    """Return a trained tokenizer, on the CPU, in eval mode.

    Args:
        path: A folder with model.safetensors and config.json, one that has `tokenizer/`, or a
            repository on the Hugging Face Hub, `owner/name`.
        revision: Branch, tag or commit on the Hub; None for a local folder.

    Raises:
        InputError: if there is no tokenizer, or it is damaged.
    """
    folder = find_folder(path, revision)
    root = folder if (folder / CONFIG).exists() else folder / "tokenizer"
    model = tokenizer_inference.load_tokenizer(root)
    config, generator = read_config(root), root.parent / "generator"
    size = read_number(root, config, "size") if "size" in config else None
    if size is None and (generator / CONFIG).exists():
        _, facts = read_shape(generator, "generator", GeneratorShape)
        size = read_number(generator, facts, "grid") * model.config.factor
    if size is not None:
        require_size(size, model.config.factor, f"{root}: images of {size} pixels a side")
    return ImageTokenizer(model, root, size)


def load_generator(
    path: str | Path, *, revision: str | None = None, text_encoder: str | Path | None = None
) -> ImageGenerator:
    """Return a trained generator with its tokenizer, on the CPU, in eval mode.

    Args:
        path: A folder that has `tokenizer/` and `generator/`, such as `data/models/generator`, or a
            repository on the Hugging Face Hub, `owner/name`.
        revision: Branch, tag or commit on the Hub; None for a local folder.
        text_encoder: Folder of the text encoder, if it is not the packaged one.

    Raises:
        InputError: if a model is missing or damaged, or the two have codebooks of different sizes.
    """
    folder = find_folder(path, revision)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = inference.load_generator(folder / "generator")
    codes, stride = tokenizer.model.config.codes, tokenizer.stride
    side = math.isqrt(model.tokens) * stride
    require_size(side, stride, f"{folder / 'generator'}: images of {side} pixels a side")
    if model.codes != codes:
        raise InputError(
            f"{folder}: a generator of {model.codes} codes beside a tokenizer of {codes}"
        )
    return ImageGenerator(model, tokenizer, folder, text_encoder)


def class_index(name: str | int, names: Sequence[str]) -> int:
    """Return the index of a class, given its name or its index as a number or text.

    Upper and lower case may differ if the class is still unique. A name comes before an index.

    Raises:
        InputError: if there is no such class.

    >>> class_index("Cat", ["dog", "cat"]), class_index("0", ["dog", "cat"])
    (1, 0)
    >>> class_index("a", ["A", "a"]), class_index(1, ["1", "0"]), class_index("1", ["1", "0"])
    (1, 1, 0)
    """
    if isinstance(name, torch.Tensor) and not name.dim():  # an item of a tensor
        name = name.item()
    if isinstance(name, str):
        if name in names:
            return names.index(name)
        folded = [known.casefold() for known in names]
        if folded.count(name.casefold()) == 1:
            return folded.index(name.casefold())
    if isinstance(name, int) and abs(name) >= 10**LONGEST_INDEX:  # Python may not print it
        raise InputError(
            f"classes: a number has over {LONGEST_INDEX} digits: there are {len(names)}, from 0 on"
        )
    text = str(name)
    is_number = text.isascii() and text.isdigit() and len(text) <= LONGEST_INDEX
    if is_number and int(text) < len(names):
        return int(text)
    known = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise InputError(f"classes {text[:80]!r}: there are {len(names)}, by name or number: {known}")


def _whole_number(value: SupportsIndex, name: str) -> int:
    """Return a whole number, also one of NumPy's. Raises `InputError` for others and booleans."""
    if not isinstance(value, bool | np.bool_):
        with suppress(TypeError):
            number = operator.index(value)
            if abs(number) < 2**64:
                return number
            raise InputError(f"{name}: give a number of at most 64 bits")  # Python may not print it
    raise InputError(f"{name}: give a whole number, not {one_line(repr(value), 40)}")


def _is_iterable(value: Any) -> bool:
    """Return whether a value is a list or another iterable; text is none."""
    try:
        iter(value)
    except TypeError:
        return False
    return not isinstance(value, str | bytes)


def _pictures(images: Any) -> list[Image.Image]:
    """Return an image or several as a list.

    Raises:
        InputError: if there is none, or one is no PIL image.
    """
    pictures = list(images) if _is_iterable(images) else [images]
    if not pictures:
        raise InputError("no image to encode")
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise InputError(f"image of type {type(picture).__name__}: {_remedy(picture)}")
    return pictures


def _remedy(image: object) -> str:
    """Return what to do about an image that is no PIL image."""
    if isinstance(image, str | PathLike):
        return "open a file with PIL.Image.open"
    if isinstance(image, np.ndarray):
        return "encode_pixels takes arrays, (N, S, S, 3) of uint8"
    if isinstance(image, torch.Tensor):
        return "torch.stack makes one tensor (N, 3, S, S) of a list"
    return "give a PIL image, a list of them, or a tensor (N, 3, S, S)"


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
