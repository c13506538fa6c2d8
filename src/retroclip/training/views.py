"""Views of images: a plain one and augmented ones, and what a frozen tower part makes of them, computed once each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from retroclip.encoders import image_prefix
from retroclip.encoders.blocks import image_middle
from retroclip.encoders.images import batches_ahead, image_batches, image_size
from retroclip.pairs import decode_image
from retroclip.pairs.augment import drawn_by, training_transform
from retroclip.training.distributed import own_rows

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

IN_MEMORY = 2**31  # bytes; a larger cache lies in an unnamed temporary file
STAGES = ("pixels", "tokens", "embedding")
AUGMENTATIONS = ("mild", "react")
BATCH = 64


def augmented(
    image: Image.Image, rng: np.random.Generator, *, scale: tuple[float, float] = (0.4, 1.0), colours: bool = True
) -> Image.Image:
    """A random crop (share of the area in `scale`, aspect ratio 3/4 to 4/3), a flip, ±30 % of brightness and so on.

    Without `colours` nothing but the crop and the flip.
    """
    width, height = image.size
    area, ratio = width * height * rng.uniform(*scale), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    image = image.crop((left, top, left + max(1, w), top + max(1, h)))
    # Square: the preprocessing's own centre crop would cut off what was just chosen.
    image = image.resize((max(image.size),) * 2, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color) if colours else ():
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image


@dataclass(frozen=True)
class View(Sequence):
    """View `number` of encoded images, or of those at `rows`, made when asked for and the same every time.

    Number 0 is the plain one.
    """

    images: Sequence[bytes]
    number: int
    seed: int = 0
    colours: bool = True
    rows: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.images if self.rows is None else self.rows)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        index = place if self.rows is None else self.rows[place]
        if self.number == 0:
            return self.images[index]
        rng = np.random.default_rng((self.seed, self.number, index))
        return augmented(decode_image(self.images[index]), rng, colours=self.colours)


@dataclass(frozen=True)
class NewViews:
    """Augmented views of encoded images, another one at every epoch, made when asked for: nothing is kept.

    That of an epoch, counted from 0, is the one that `cache_views` numbers one higher.
    """

    encoder: Encoder
    images: Sequence[bytes]
    stage: str
    start: int
    seed: int
    augmentation: str

    def at(self, epoch: int, rows: Tensor) -> Tensor:
        """The images at `rows` (m,), taken as far as `stage`, as in `cache_views`: (m, …) float32.

        Rows that another process encodes from there (`distributed.shared_out`) are zeros.
        """
        own = slice(0, len(rows)) if self.stage == "embedding" else own_rows(len(rows))
        own = own if own.stop > own.start else slice(0, 1)
        view = View(self.images, epoch + 1, self.seed, rows=rows[own].tolist())
        whole, row = torch.empty(0), own.start
        for pixels in pixels_of(self.encoder, view, self.augmentation):
            made = taken_to(self.encoder, pixels, self.stage, self.start)
            if not len(whole):  # filled in place: 4,096 images of 224 pixels are 2.5 GB
                whole = made.new_zeros(len(rows), *made.shape[1:])
            whole[row : row + len(made)] = made
            row += len(made)
        return whole


def cache_views(
    encoder: Encoder,
    images: Sequence[bytes],
    *,
    stage: str,
    start: int = 0,
    views: int = 0,
    seed: int = 0,
    colours: bool = True,
    augmentation: str = "mild",
) -> Tensor:
    """Every view of every image, taken as far as `stage`: (views + 1, m, …) float16, view 0 the plain one.

    "pixels": preprocessed (3, H, W). "tokens": at the input of image block `start`, (L, width). "embedding": (d,)
    unit norm. Computed in the encoder's own precision. The augmented ones are `augmented` images or, with "react" for
    `augmentation`, what REACT trains on (`training_transform`). Raises BadImageError for an image that can't be read.
    """
    cache: Tensor | None = None
    row = 0
    for number in range(views + 1):
        view = View(images, number, seed, colours)
        for pixels in pixels_of(encoder, view, augmentation):
            values = taken_to(encoder, pixels, stage, start)
            if cache is None:
                cache = _allocate(((views + 1) * len(images), *values.shape[1:]))
            cache[row : row + len(values)] = values
            row += len(values)
    if cache is None:
        raise ValueError("no images to cache")
    return cache.reshape(views + 1, len(images), *cache.shape[1:])


def pixels_of(encoder: Encoder, view: View, augmentation: str) -> Iterator[Tensor]:
    """A view in batches of preprocessed pixels (b, 3, H, W); the plain one is the same in every augmentation."""
    if view.number and augmentation == "react":
        return react_batches(encoder, view)
    return image_batches(view, encoder.preprocess, BATCH, ahead=batches_ahead(encoder.device))


def react_batches(encoder: Encoder, view: View) -> Iterator[Tensor]:
    """A view as REACT draws it: (b, 3, H, W), the same every time.

    One image after the other, for its steps draw from the global generators.
    """
    config: dict[str, Any] = encoder.preprocess_cfg
    transform = training_transform(image_size(config), config["mean"], config["std"], config["interpolation"])
    rows = range(len(view)) if view.rows is None else view.rows
    for start in range(0, len(rows), BATCH):
        pixels = []
        for index in rows[start : start + BATCH]:
            with drawn_by(int(np.random.default_rng((view.seed, view.number, index)).integers(2**32))):
                pixels.append(cast(Tensor, transform(decode_image(view.images[index]))))
        yield torch.stack(pixels)


@torch.no_grad()
def taken_to(encoder: Encoder, pixels: Tensor, stage: str, start: int) -> Tensor:
    """One batch of pixels at one of `STAGES`."""
    if stage == "pixels":
        return pixels
    if stage == "embedding":
        return encoder.encode_images(pixels)
    dtype = next(encoder.model.visual.parameters()).dtype
    return image_prefix(encoder.model, pixels.to(encoder.device, dtype), start).float().cpu()


@torch.no_grad()
def advance(encoder: Encoder, tokens: Tensor, start: int, stop: int) -> Tensor:
    """Cached tokens (m, L, width) at the input of block `start`, taken on to that of block `stop`."""
    dtype = next(encoder.model.visual.parameters()).dtype
    taken = _allocate(tuple(tokens.shape))
    for rows in torch.arange(len(tokens)).split(256):
        part = tokens[rows].to(encoder.device, dtype)
        taken[rows] = image_middle(encoder.model, part, start, stop).to("cpu", torch.float16)
    return taken


def _allocate(shape: tuple[int, ...]) -> Tensor:
    if 2 * int(np.prod(shape)) <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.float16)
    file = tempfile.TemporaryFile(prefix="retroclip-views-")  # noqa: SIM115 lives as long as the array that maps it
    return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=shape))
