"""Mean fusion after the modality gap is taken out: each modality's mean over the memory is subtracted first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.fusion.base import Fusion
from retroclip.fusion.mean import mean_fusion
from retroclip.fusion.neighbours import OTHER

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.memory.opened import Modality

CHUNK = 1 << 16


def centred(rows: Tensor, mean: Tensor) -> Tensor:
    """Rows (…, d) without their modality's mean (d,), unit norm again; a row that is the mean stays zero."""
    return F.normalize(rows - mean, dim=-1)


def modality_mean(memory: Memory, side: Modality) -> Tensor:
    """Mean (d,) of a memory's embeddings of one modality; pairs without caption don't count for the texts'."""
    ids = memory.ids()
    total: Tensor | None = None
    count = 0
    for start in range(0, len(ids), CHUNK):
        rows = memory.embeddings(ids[start : start + CHUNK], of=side)
        rows = rows[rows.norm(dim=-1) > 0]
        total = rows.double().sum(0) if total is None else total + rows.double().sum(0)
        count += len(rows)
    assert total is not None, "a memory without pairs has no mean"
    return (total / max(1, count)).float()


class CentredMeanFusion(Fusion):
    """normalise((1−λ)·q̂ + λ·mean_j r̂_j) with q̂ = normalise(q − μ) and r̂ likewise, each by its own modality's mean.

    Texts are only centred. Images and texts of CLIPs lie in two cones (Liang et al. 2022, Mind the gap), so that a mean
    of both lies between them rather than near either. The means come from the memory (`prepare`) and are saved with the
    fusion; the search asks for q̂, whose order among keys x is that of q̂ᵀ(x − μ) [D]. Nothing is trained.
    """

    sides: tuple[Modality, ...] = ("image", "text")

    def __init__(self, dim: int, weight: float = 0.5) -> None:
        super().__init__()
        self.options = {"dim": dim, "weight": weight}
        self.weight = weight
        self.register_buffer("image_mean", torch.zeros(dim))
        self.register_buffer("text_mean", torch.zeros(dim))

    def prepare(self, memory: Memory) -> None:
        self.image_mean, self.text_mean = (modality_mean(memory, side) for side in ("image", "text"))

    def asking(self, query: Tensor, side: Modality) -> Tensor:
        return centred(query, self._mean(side))

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
        """(n, d), (n, k, d), mask (n, k) → (n, d), unit norm; the keys and the search's scores count for nothing."""
        own = self.asking(query, side)
        if side == "text":
            return own
        return mean_fusion(own, centred(neighbours, self._mean(OTHER[side])), self.weight, mask)

    def _mean(self, side: str) -> Tensor:
        return self.image_mean if side == "image" else self.text_mean
