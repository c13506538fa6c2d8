"""Image transforms for training: PIL image → normalised tensor."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import str_to_pil_interp
from torchvision.transforms import InterpolationMode, v2

from retroclip.errors import RetroclipError

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
"""timm's name for RandAugment of magnitude 9 with noise .5, as REACT and iCAR train."""


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Let everything that draws from the global generators draw by `seed` (32 bits); they are left as found."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def rand_augment(
    policy: str, size: int, mean: Sequence[float], interpolation: str | None = None
) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment for images of `size` pixels; what it uncovers has the colour `mean` (in [0, 1]).

    `interpolation` is that of its turns and shears; None: bilinear or bicubic, drawn each time.
    A posterisation to no bits at all, which noise around the magnitude can ask for and Pillow refuses, keeps one bit.
    """
    fill = tuple(round(255 * channel) for channel in mean)
    options: dict[str, Any] = {"translate_const": int(size * 0.45), "img_mean": fill}
    if interpolation is not None:
        options["interpolation"] = str_to_pil_interp(interpolation)
    try:
        augment = rand_augment_transform(policy, options)
    except (AssertionError, KeyError, ValueError):
        raise RetroclipError(f"no RandAugment is called {policy!r}: write it as timm does, {RAND_AUGMENT}") from None
    for op in augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return ImageOps.posterize(image, max(1, bits)) if bits < 8 else image


def training_transform(
    image_size: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    policy: str | None = RAND_AUGMENT,
    erasing: float = 0.25,
) -> v2.Compose:
    """RandomResizedCrop, flip, RandAugment, normalisation, erasing: what REACT trains on, by default.

    Takes a PIL image of mode RGB and gives a float32 tensor (3, H, W), normalised with the encoder's own `mean` and
    `std`. Zero or None leaves a step out. `interpolation` is the encoder's: bicubic, bilinear, nearest. The authors'
    `color_jitter=0.4` does nothing: timm leaves it out where RandAugment is asked for.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    steps: list[object] = [
        v2.RandomResizedCrop((height, width), scale=scale, interpolation=InterpolationMode(interpolation)),
    ]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if policy:
        steps.append(rand_augment(policy, min(height, width), mean, interpolation))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    if erasing:
        steps.append(v2.RandomErasing(erasing, value="random"))
    return v2.Compose([*steps, v2.ToPureTensor()])
