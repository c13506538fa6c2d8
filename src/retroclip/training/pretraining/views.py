"""Random views of a batch of images at once: crop, flip, colours, and few pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from retroclip.pairs.augment import drawn_by, rand_augment


def crops(count: int, scale: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Random squares in the unit square, (count, 3): left, top, side; the share of the area is drawn from `scale`."""
    side = np.sqrt(rng.uniform(*scale, size=count))
    left, top = rng.uniform(size=(2, count)) * (1 - side)
    return np.stack([left, top, side], axis=1)


def cropped(pixels: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Squares `boxes` (B, 3), see `crops`, of float pixels (B, 3, S, S) at `size`, mirrored where `flip`: bilinear.

    Shrinking by more than 2 goes through an average first, so that no pixel is passed over.
    """
    factor = int(pixels.shape[-1] * float(boxes[:, 2].min()) // size)
    if factor >= 2:
        pixels = F.avg_pool2d(pixels, factor)
    left, top, side = boxes.T
    theta = torch.zeros(len(boxes), 2, 3, dtype=pixels.dtype)
    theta[:, 0, 0] = torch.where(flip, -side, side)
    theta[:, 1, 1] = side
    theta[:, 0, 2], theta[:, 1, 2] = 2 * left + side - 1, 2 * top + side - 1
    grid = F.affine_grid(theta, [len(boxes), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def jittered(pixels: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of pixels (B, 3, S, S) in [0, 1], multiplied by `factors` (B, 3)."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pixels = pixels * brightness
    pixels = torch.lerp(pixels.mean((1, 2, 3), keepdim=True), pixels, contrast)
    return torch.lerp(pixels.mean(1, keepdim=True), pixels, saturation).clamp(0, 1)


def coarsened(pixels: Tensor, chosen: Tensor, factor: int = 2) -> Tensor:
    """Pixels (B, 3, S, S), the chosen ones shrunk by `factor` and enlarged again."""
    if chosen.any():
        small = F.interpolate(pixels[chosen], scale_factor=1 / factor, mode="area")
        pixels = pixels.clone()
        pixels[chosen] = F.interpolate(small, pixels.shape[-1], mode="bicubic", antialias=False).clamp(0, 1)
    return pixels


def rand_augmented(pixels: Tensor, policy: str, seeds: Sequence[int]) -> Tensor:
    """timm's RandAugment on uint8 pixels (B, 3, S, S), each image by its own of `seeds`."""
    augment = rand_augment(policy, pixels.shape[-1], (0.48, 0.46, 0.41))
    images = []
    for image, seed in zip(pixels, seeds, strict=True):
        with drawn_by(int(seed)):
            images.append(np.asarray(augment(Image.fromarray(image.permute(1, 2, 0).numpy()))))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
