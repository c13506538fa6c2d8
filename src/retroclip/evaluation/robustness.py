"""How a fusion bears poor neighbours: a memory whose search results are partly random pairs (RA-CLIP, section E)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.memory.search import Hits

if TYPE_CHECKING:
    from retroclip.memory import Memory


def replaced(
    ids: NDArray[np.int64], pool: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids (n, k) with round(share·k) of each row's places, drawn anew for each row, holding random ids of the pool.

    Empty places (−1) stay empty, and with the same `rng` a larger share replaces the places of a smaller one too. The
    second value (n, k) is True where an id was replaced.
    """
    order = rng.random(ids.shape).argsort(axis=1).argsort(axis=1)
    places = (order < round(share * ids.shape[1])) & (ids >= 0)
    return np.where(places, rng.choice(pool, ids.shape), ids), places


class CorruptedMemory:
    """A memory in which `share` of every search's results are random pairs with text, with the cosines these have.

    Which pairs is drawn from `seed` anew for every search, among those that `where` lets through; everything else is
    the memory's.
    """

    def __init__(self, memory: Memory, share: float, seed: int = 0) -> None:
        self._memory, self._share = memory, share
        self._rng = np.random.default_rng(seed)
        self._pool = memory.ids()[np.asarray(memory.has_text())]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._memory, name)

    def __len__(self) -> int:
        return len(self._memory)

    def search(
        self, queries: Any, *, by: Literal["image", "text"] = "image", where: str | None = None, **options: Any
    ) -> Hits:
        hits = self._memory.search(queries, by=by, where=where, **options)
        ids = np.asarray(hits.ids)
        pool = self._pool if where is None else np.intersect1d(self._pool, self._memory.matching(where))
        if not len(pool):
            return hits
        ids, changed = replaced(ids, pool, self._share, self._rng)
        if not changed.any():
            return hits
        own = torch.nn.functional.normalize(torch.as_tensor(queries).float(), dim=1)
        cosines = torch.einsum("nd,nkd->nk", own, self._memory.embeddings(ids, of=by)).numpy()
        return Hits(ids, np.where(changed, cosines, hits.scores).astype(np.float32))


def with_noise(memory: Memory, share: float, seed: int = 0) -> Memory:
    """The memory with that share of random neighbours; itself where there are none to be."""
    return cast("Memory", CorruptedMemory(memory, share, seed)) if share else memory
