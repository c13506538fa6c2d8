"""Mean fusion: the control beside every learned fusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from retroclip.fusion.base import Fusion

if TYPE_CHECKING:
    from retroclip.memory.opened import Modality


def masked_mean(neighbours: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over k of (n, k, d); `mask` (n, k) is True where there is a neighbour. A row without any gives zeros."""
    if mask is None:
        return neighbours.mean(dim=1)
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)
    return (neighbours * mask[..., None]).sum(dim=1) / count


def mean_fusion(query: Tensor, neighbours: Tensor, weight: float | Tensor = 0.5, mask: Tensor | None = None) -> Tensor:
    """normalise((1−λ)·q + λ·mean_j r_j) for q (n, d), r (n, k, d), λ = `weight`; without neighbours, q itself."""
    return F.normalize((1 - weight) * query + weight * masked_mean(neighbours, mask), dim=-1)


class MeanFusion(Fusion):
    """`mean_fusion` behind the interface of a learned one, on `sides` only (default: images). Nothing is trained."""

    def __init__(self, dim: int, weight: float = 0.5, sides: tuple[Modality, ...] = ("image",)) -> None:
        super().__init__()
        self.options = {"dim": dim, "weight": weight, "sides": list(sides)}
        self.weight, self.sides = weight, tuple(sides)

    def forward(
        self,
        query: Tensor,
        neighbours: Tensor,
        *,
        side: Modality,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """(n, d), (n, k, d), mask (n, k) → (n, d); the keys and the search's scores count for nothing here."""
        return mean_fusion(query, neighbours, self.weight, mask)
