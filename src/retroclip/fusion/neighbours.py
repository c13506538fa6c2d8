"""What a memory holds about a query's neighbours: uni-modal search, cross-modal values (RECO, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from retroclip.errors import MemoryStoreError

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.memory.opened import Modality

OTHER: dict[str, Modality] = {"image": "text", "text": "image"}


@dataclass
class Neighbours:
    """k memory pairs for each of n queries.

    `values` (n, k, d): what is fused, the pairs' embeddings of the modality the query lacks; `keys` (n, k, d): the
    other ones; `scores` (n, k): the search's cosines; `mask` (n, k): False where fewer than k pairs matched; `ids`
    (n, k): rows of the memory, −1 for none.
    """

    values: Tensor
    keys: Tensor
    scores: Tensor
    mask: Tensor
    ids: np.ndarray

    def first(self, k: int) -> Neighbours:
        """The best k of them."""
        return Neighbours(self.values[:, :k], self.keys[:, :k], self.scores[:, :k], self.mask[:, :k], self.ids[:, :k])


def has_captions(memory: Memory) -> str | None:
    """The predicate that leaves out pairs without text, or None where every pair has one.

    Raises MemoryStoreError if no pair has: there is nothing to fuse.
    """
    with_text = np.asarray(memory.has_text())
    if not with_text.any():
        raise MemoryStoreError(
            "no pair of this memory has a caption, and fusion needs texts: add captions (a .txt beside each image), or "
            "create the memory with labels_as_captions=True"
        )
    return None if with_text.all() else "caption IS NOT NULL"


def find_neighbours(
    memory: Memory,
    queries: Tensor,
    *,
    side: Modality,
    k: int,
    where: str | None = None,
    exclude: Sequence[np.ndarray] | None = None,
    search: str = "uni-modal",
    values: str = "cross-modal",
) -> Neighbours:
    """The k pairs nearest to each query (n, d) of modality `side`, by keys of its own modality (RECO's finding).

    `search="cross-modal"` and `values="uni-modal"` give the other combinations of the ablation. `where` leaves out
    pairs without text (`has_captions`).
    """
    hits = memory.search(queries, by=looked_at(side, search), k=k, where=where, exclude=exclude)
    return gathered(memory, hits.ids, hits.scores, side=side, values=values)


def looked_at(side: Modality, mode: str) -> Modality:
    """The modality that a "uni-modal" or "cross-modal" step of a query of modality `side` looks at."""
    if mode not in ("uni-modal", "cross-modal"):
        raise ValueError(f"a search or value is 'uni-modal' or 'cross-modal', not {mode!r}")
    return side if mode == "uni-modal" else OTHER[side]


def gathered(
    memory: Memory, ids: np.ndarray, scores: np.ndarray, *, side: Modality, values: str = "cross-modal"
) -> Neighbours:
    """The embeddings behind search results for queries of modality `side`: ids (n, k), −1 for none, scores (n, k)."""
    fused = looked_at(side, values)
    mask = torch.from_numpy(ids >= 0)
    return Neighbours(
        values=memory.embeddings(ids, of=fused),
        keys=memory.embeddings(ids, of=OTHER[fused]),
        scores=torch.from_numpy(scores).float().masked_fill(~mask, 0.0),
        mask=mask,
        ids=ids,
    )


def as_own_neighbours(queries: Tensor, k: int) -> Neighbours:
    """Queries (n, d) as their own k neighbours in both modalities, cosine 1: what a fusion gets without retrieval."""
    own = queries[:, None].expand(-1, k, -1)
    scores = torch.ones(len(queries), k)
    return Neighbours(own, own, scores, scores > 0, np.full((len(queries), k), -1))
