"""From patch embeddings to a class for every pixel: MaskCLIP's scores, key smoothing and prompt denoising."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.encoders.dense import dense_map, whole_image
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.classifiers.classifier import Classifier


def key_smoothing(scores: Tensor, keys: Tensor) -> Tensor:
    """P_i ← Σ_j cos(key_i, key_j)·P_j for scores (N, K) and keys (N, c) of an image's N patches.

    Keys are normalised for each patch (MaskCLIP, Eq. 4; its public code normalises over positions by mistake).
    """
    unit = F.normalize(keys, dim=-1)
    return (unit @ unit.T) @ scores


def prompt_denoising(scores: Tensor, threshold: float = 0.5) -> Tensor:
    """Which classes (K,) to keep: those whose largest softmax over the patches of scores (N, K) is ≥ `threshold`.

    Scores are scaled cosines (100·cos for CLIP). Where none would stay, the best one does. MaskCLIP, section 3.3.
    """
    best = scores.softmax(dim=-1).amax(dim=0)
    return best >= min(threshold, float(best.max()))


def segment(
    classifier: Classifier,
    image: Any,
    *,
    size: int | None = None,
    smoothing: bool = False,
    denoising: float = 0.0,
    residual: bool = True,
) -> Tensor:
    """Class scores (K, H, W) for every pixel of an image (encoded or PIL), bilinearly upsampled; argmax is the class.

    Scores are the classifier's logits over patch embeddings; removed classes have −inf. `size`: see `whole_image`.
    Raises ModelError as `dense_map`, and where smoothing is asked of a tower without keys.
    """
    from retroclip.pairs import decode_image

    decoded = decode_image(image)
    encoder: Any = classifier.encoder
    found = dense_map(encoder, whole_image(encoder, decoded, size)[None], residual=residual)
    _, height, width, d = found.features.shape
    with torch.no_grad():
        scores = classifier(found.features.reshape(-1, d)).float()
        kept = prompt_denoising(scores, denoising) if denoising else None
        if smoothing:
            if found.keys is None:
                raise ModelError(f"{encoder.name}: no key smoothing, its image tower ends without keys")
            scores = key_smoothing(scores, found.keys.reshape(height * width, -1))
    maps = scores.T.reshape(1, -1, height, width)
    maps = F.interpolate(maps, size=decoded.size[::-1], mode="bilinear", align_corners=False)[0]
    return maps if kept is None else maps.masked_fill(~kept[:, None, None], -torch.inf)
