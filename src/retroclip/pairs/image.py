"""Decode an image that nobody vouches for: size checked from the header, any mode turned to RGB."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from retroclip.errors import BadImageError

MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a gigabyte of RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
"""What may be opened; formats that start other programs (EPS) or that nobody trains on are left out."""

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
    ".heic", ".heif",
})  # fmt: skip
"""File names taken for images. HEIC is among them so that it is rejected by name instead of being overlooked."""

# decode_image compares the header's size with its own limit and raises; Pillow's warning would only repeat that.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(data: bytes | Path | str | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode to a PIL image of mode RGB, upright by its EXIF orientation; transparent parts become white.

    Of an animation the first frame is taken. 16-bit and floating-point images are scaled to 8 bits.

    Raises:
        BadImageError: not an image, truncated, or more than `max_pixels` (known before anything is decoded).
    """
    if isinstance(data, (str, Path)):
        data = _read(Path(data))
    try:
        image = data if isinstance(data, Image.Image) else _open(data)
        width, height = image.size
        if width * height > max_pixels:
            raise BadImageError(f"image of {width} x {height} pixels exceeds the limit of {max_pixels:,} pixels")
        image.load()
        return _to_rgb(_upright(image))
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"image exceeds the pixel limit: {error}") from None
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error on broken files
        raise BadImageError(f"image is truncated or broken: {_one_line(error)}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"can't read {path}: {error.strerror or error}") from None


def image_suffix(data: bytes) -> str:
    """The usual suffix of an encoded image's file name, without the dot: jpg, png, … ("jpg" for anything else)."""
    try:
        with _open(data) as image:
            name = str(image.format).lower()
    except Exception:
        return "jpg"
    return {"jpeg": "jpg", "jpeg2000": "jp2", "tiff": "tif"}.get(name, name if f".{name}" in IMAGE_SUFFIXES else "jpg")


@cache
def _openable() -> list[str]:
    """Those of FORMATS that this Pillow was built with: it raises KeyError for others."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImageError("empty image file (0 bytes)")
    try:
        return Image.open(io.BytesIO(data), formats=_openable())
    except Image.UnidentifiedImageError:
        raise BadImageError(f"not an image in a known format (it starts with {bytes(data[:8])!r})") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_eight_bits(np.asarray(image), image.mode[0] == "F")).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, floating: bool) -> np.ndarray:
    """Scale from the smallest usual range that holds the values: [0, 1], 8 bits, 16 bits, or their maximum."""
    values = np.nan_to_num(values.astype(np.float64))
    top = values.max(initial=0.0)
    ranges = [1.0, 255.0, 65535.0] if floating else [65535.0]
    full = next((value for value in ranges if top <= value), top)
    return np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
