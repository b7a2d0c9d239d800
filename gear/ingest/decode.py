"""Decode untrusted image files into squares of the training size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gear.data.captions import caption_fault, normalize_caption, text_fault
from gear.ingest.image_headers import FORMATS, MAX_PIXELS, RefusedImage, open_image
from gear.ingest.records import EncodedSample, Picture, Reject

MIN_SIDE = 2  # pixels
DEEP = 65535.0  # value of white in 16-bit images
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_slice(
    samples: list[EncodedSample | Reject], size: int, encoding: str
) -> list[Picture | Reject]:
    """Decode samples to pictures, in order; rejects are passed through.

    The result depends only on the arguments and the files that they name, so this can run in any
    process that sees those files, and run again if a process died.

    Args:
        samples: Consecutive samples of a source.
        size: Side of the pictures in pixels.
        encoding: The setting data.encoding.

    Raises:
        InputError: if an archive cannot be read.
    """
    return [
        sample if isinstance(sample, Reject) else _decode_sample(sample, size, encoding)
        for sample in samples
    ]


def _decode_sample(sample: EncodedSample, size: int, encoding: str = "png") -> Picture | Reject:
    caption = normalize_caption(sample.caption)
    if fault := text_fault(sample.key, "name") or text_fault(sample.category, "class"):
        return Reject(sample.key, fault)
    if fault := caption_fault(caption):
        return Reject(sample.key, fault)
    source: Path | io.BytesIO
    if isinstance(sample.image, Path):
        source = sample.image
    else:
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read()
        source = io.BytesIO(content)
    try:
        pixels = read_square(source, size)
    except Exception as error:  # decoders of damaged files raise errors of every kind
        return Reject(sample.key, reject_reason(error))
    return Picture.of_pixels(pixels, sample.key, sample.key, sample.category, caption, encoding)


def reject_reason(error: Exception) -> str:
    """Return why an image cannot be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return f"no image of the formats {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own bound, over ours
        return f"over {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, MemoryError):
        return "too little memory to decode it"
    if isinstance(error, RefusedImage):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def read_square(source: Path | io.BytesIO, size: int) -> np.ndarray:
    """Read an image and return it as a square, (size, size, 3) uint8, as `square` does.

    Raises:
        RefusedImage: if the image is too small or too large, its header asks for more than an image
            of its size needs, or its values are out of range.
        Exception: of any type, by a decoder, if the file is damaged.
    """
    with open_image(source) as opened:
        return square(opened, size)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Return an image resized to `size` on the short side and cropped, (size, size, 3) uint8.

    Resizing is bicubic with antialiasing, the crop is central. EXIF rotation is applied,
    transparent images are put on white, and 16-bit and floating-point images are scaled to 8 bits.

    Raises:
        RefusedImage: if the image is too small or too large, or its values are out of range.
    """
    if min(image.size) < MIN_SIDE:
        raise RefusedImage(f"{image.width}x{image.height} pixels: a side is under {MIN_SIDE}")
    scale = size / min(image.size)
    if max(1.0, scale**2) * image.width * image.height > MAX_PIXELS:
        resized = f" resized to {size} on the short side" if scale > 1 else ""
        raise RefusedImage(
            f"{image.width}x{image.height}{resized} is over {MAX_PIXELS // 10**6} megapixels"
        )
    picture = _upright_opaque(image)
    scale = size / min(picture.size)
    width = max(size, round(picture.width * scale))
    height = max(size, round(picture.height * scale))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _upright(opened: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF says; EXIF that cannot be read turns nothing.

    `ImageOps.exif_transpose` also writes all tags anew, and fails at those of a wrong type.
    """
    opened.load()
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation)
        turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # damaged tags raise errors of every kind
        turn = None
    return opened.copy() if turn is None else opened.transpose(turn)


def _upright_opaque(opened: Image.Image) -> Image.Image:
    picture = _upright(opened)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture, opened.format).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image, kind: str | None) -> Image.Image:
    """Convert a grey image of 16-bit, 32-bit or floating-point values to 8 bits.

    White is 65535 in 16-bit images and PPM; in others it is the smallest of 1 (floating point
    only), 255 and 65535 that no value exceeds.

    Raises:
        RefusedImage: if a value is not in [0, 65535].
    """
    values = np.asarray(picture, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and low >= 0 and high <= DEEP):
        raise RefusedImage(f"its values range from {low:g} to {high:g}, not from 0 to 65535")
    if picture.mode.startswith("I;16") or kind == "PPM":
        white = DEEP
    else:
        white = next(w for w in (1.0, 255.0, DEEP) if high <= w and (w > 1 or picture.mode == "F"))
    return Image.fromarray(np.rint(values * (255.0 / white)).astype(np.uint8))
