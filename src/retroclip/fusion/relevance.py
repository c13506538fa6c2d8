"""Does a memory know anything about a query? Its neighbours' nearness against that of the memory's own pairs. [D]"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.fusion.mean import masked_mean

if TYPE_CHECKING:
    from retroclip.memory.opened import Modality

SAMPLE = 500  # rows that the usual spread is estimated on


def relevance(scores: Tensor, usual: Tensor, spread: float, sharpness: float, mask: Tensor | None = None) -> Tensor:
    """exp(β·min(0, (s̄ − ū)/σ)) in [0, 1]: 1 where neighbours are as near as neighbours of theirs usually are. (n,)

    scores (n, k): cosines of a query and its neighbours; usual (n, k): for each of these the mean cosine of its own
    neighbours; `spread` σ: how s̄ − ū varies over the memory's own pairs; `sharpness` β. A query without any neighbour
    (`mask` (n, k) all False) gets 0. Relative density, as in local outlier factors (Breunig et al. 2000).
    """
    value = torch.exp(sharpness * shortfall(scores, usual, mask).clamp_max(0) / max(spread, 1e-6))
    return value if mask is None else value * mask.any(dim=1)


def shortfall(scores: Tensor, usual: Tensor, mask: Tensor | None = None) -> Tensor:
    """s̄ − ū: the mean over the neighbours there are of scores − usual, both (n, k), mask (n, k) → (n,)."""
    return masked_mean((scores - usual)[..., None], mask)[:, 0]


def as_relevant(query: Tensor, refined: Tensor, weight: Tensor) -> Tensor:
    """normalise((1−g)·q + g·refined) for unit-norm q and refined (n, d) and g (n,) = `weight`."""
    return F.normalize(torch.lerp(query, refined, weight[:, None]), dim=-1)


@dataclass
class Density:
    """How near a memory's pairs lie to their own neighbours; searched when first asked, and remembered.

    `rows`: ids (m,) of the pairs that can be neighbours. `search(ids, side)`: of these pairs, as queries of modality
    `side`, the cosines (n, k) and ids (n, k) of the nearest others; −1 for none.
    """

    rows: np.ndarray
    search: Callable[[np.ndarray, Modality], tuple[Tensor, np.ndarray]]
    _usual: dict[str, dict[int, float]] = field(default_factory=dict)
    _spread: dict[str, float] = field(default_factory=dict)

    def remember(self, side: Modality, rows: np.ndarray, scores: Tensor, ids: np.ndarray) -> None:
        """Take what `search(rows, side)` would give as known."""
        means = masked_mean(scores[..., None], torch.from_numpy(ids >= 0))[:, 0]
        self._usual.setdefault(side, {-1: 0.0}).update(zip(rows.tolist(), means.tolist(), strict=True))

    def usual(self, side: Modality, ids: np.ndarray) -> Tensor:
        """The mean cosine of each pair and its own neighbours: ids (n, k) → (n, k); 0 for the id −1."""
        known = self._usual.setdefault(side, {-1: 0.0})
        fresh = np.array([row for row in np.unique(ids).tolist() if row not in known], np.int64)
        if len(fresh):
            self.remember(side, fresh, *self.search(fresh, side))
        return torch.tensor([known[row] for row in ids.reshape(-1).tolist()]).reshape(ids.shape)

    def spread(self, side: Modality) -> float:
        """Standard deviation of s̄ − ū over the memory's own pairs, or `SAMPLE` of them, each without itself."""
        if side not in self._spread:
            rows = self.rows
            if len(rows) > SAMPLE:
                rows = np.random.default_rng(0).choice(rows, SAMPLE, replace=False)
            scores, ids = self.search(rows, side)
            mask = torch.from_numpy(ids >= 0)
            self._spread[side] = float(shortfall(scores, self.usual(side, ids), mask).std(correction=0))
        return self._spread[side]
