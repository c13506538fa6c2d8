"""What an image tower knows before it projects into the common space, beside the embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

Tap = tuple[nn.Module, Callable[[Tensor, Any], Tensor]]
"""A part of an image tower, and what makes features (B, f) of its input and output."""


class FeatureEncoder:
    """An encoder whose image embeddings go on, after the d numbers of the common space, with the tower's features.

    Those are what CLIP's linear probes read (Radford et al. 2021, appendix A.3): the pooled output before the last
    projection; in hybrids the pooled map of the convolutional net beneath the blocks [D], and where there is no
    projection the embedding itself. Texts, and everything else, are the encoder's own.

    Raises ModelError for an encoder that consults a memory, and for unknown image towers.
    """

    def __init__(self, base: Encoder) -> None:
        if getattr(base, "memory", None) is not None:
            raise ModelError(f"{base.name} consults a memory: take the features of the model beneath it")
        self.base, self._tap = base, feature_tap(base.model.visual)

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)  # texts, dim, logit_scale, fingerprint, …

    def encode_images(self, images: Sequence[Any] | Tensor, **options: Any) -> Tensor:
        """As `Encoder.encode_images`, but (n, d + f): the embedding and the features, each of unit norm."""
        if not len(images):
            size = self.base.preprocess_cfg["size"]
            height, width = (size, size) if isinstance(size, int) else size
            return self.encode_images(torch.zeros(1, 3, height, width))[:0]
        with tapped(self._tap) as seen:
            embeddings = self.base.encode_images(images, **options)
        return torch.cat([embeddings, torch.cat(seen)], dim=1)


@contextmanager
def tapped(tap: Tap) -> Iterator[list[Tensor]]:
    """A list that unit-norm features (B, f) are added to, one batch at a time, while an image tower runs."""
    part, features = tap
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], made: Any) -> None:
        seen.append(normalize(features(given[0], made).float(), dim=-1).cpu())

    handle = part.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def feature_tap(tower: Any) -> Tap:
    """The part of an image tower at which its features show, and how they follow from its input and output: (B, f)."""
    if isinstance(tower, VisionTransformer):
        return tower.transformer, lambda given, made: tower._pool(made)[0]
    if isinstance(tower, ModifiedResNet):
        return tower.attnpool, lambda given, made: given.mean((2, 3))
    if isinstance(tower, TimmModel):
        embed = getattr(tower.trunk, "patch_embed", None)
        if isinstance(backbone := getattr(embed, "backbone", None), nn.Module):
            return backbone, lambda given, made: (made[-1] if isinstance(made, list | tuple) else made).mean((2, 3))
        return tower.head, lambda given, made: given.mean((2, 3)) if given.ndim == 4 else given
    raise ModelError(f"no features from a {type(tower).__name__} image tower")
