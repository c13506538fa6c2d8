"""Image transforms for training: PIL image → normalised tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import InterpolationMode, v2

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
"""timm's name for RandAugment of magnitude 9 with noise .5, as REACT and iCAR train."""


def training_transform(
    image_size: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    colour_jitter: float = 0.4,
    rand_augment: str | None = RAND_AUGMENT,
    erasing: float = 0.25,
) -> v2.Compose:
    """RandomResizedCrop, flip, RandAugment, colour jitter, normalisation, erasing: REACT's recipe by default.

    Takes a PIL image of mode RGB and gives a float32 tensor (3, H, W), normalised with the encoder's own `mean` and
    `std`. Zero or None leaves a step out. `interpolation` is the encoder's: bicubic, bilinear, nearest.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    steps: list[object] = [
        v2.RandomResizedCrop((height, width), scale=scale, interpolation=InterpolationMode(interpolation)),
    ]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if rand_augment:
        fill = tuple(round(255 * channel) for channel in mean)
        options = {"translate_const": int(min(height, width) * 0.45), "img_mean": fill}
        steps.append(rand_augment_transform(rand_augment, options))
    if colour_jitter:
        steps.append(v2.ColorJitter(colour_jitter, colour_jitter, colour_jitter))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    if erasing:
        steps.append(v2.RandomErasing(erasing, value="random"))
    return v2.Compose([*steps, v2.ToPureTensor()])
