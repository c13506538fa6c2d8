"""Near-duplicates of evaluation images in a memory: found, counted, and kept out of every method's sight."""

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retroclip.memory import Memory

NEAR = 0.95  # REACT, §"Retrieval" of methods.md: a cosine above this is the same picture
FIRST_K = 16


def near_duplicates(memory: "Memory", images: torch.Tensor, *, threshold: float = NEAR) -> NDArray[np.int64]:
    """Ids of the memory's pairs whose image has cosine > `threshold` with any of `images` `(n, d)`, ascending.

    Queries whose k-th neighbour is still that near are searched again with k doubled, so none is missed.
    """
    found: set[int] = set()
    k, pending, rows = FIRST_K, images, len(memory)
    while len(pending) and rows:
        hits = memory.search(pending, by="image", k=min(k, rows))
        ids, scores = np.asarray(hits.ids), np.asarray(hits.scores)
        near = (scores > threshold) & (ids >= 0)
        found.update(ids[near].tolist())
        if k >= rows:
            break
        pending, k = pending[torch.from_numpy(near[:, -1])], 2 * k
    return np.array(sorted(found), dtype=np.int64)


class MemoryWithout:
    """A memory as it looks without some of its pairs: searched and read like a `Memory`, nothing is deleted."""

    def __init__(self, memory: "Memory", excluded: NDArray[np.int64]) -> None:
        self._memory, self._excluded = memory, np.asarray(excluded, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        # Path, model, version, take, check_encoder, … don't depend on which pairs are hidden.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._memory, name)

    def __len__(self) -> int:
        return len(self.ids())

    def ids(self) -> NDArray[np.int64]:
        return self._visible(self._memory.ids())

    def matching(self, where: str) -> NDArray[np.int64]:
        return self._visible(self._memory.matching(where))

    def has_text(self) -> NDArray[np.bool_]:
        return self._memory.has_text()[~np.isin(self._memory.ids(), self._excluded)]

    def embeddings(self, ids: Any = None, *, of: Literal["image", "text"] = "image") -> torch.Tensor:
        return self._memory.embeddings(self.ids() if ids is None else ids, of=of)

    def search(self, queries: Any, *, exclude: Any = None, **options: Any) -> Any:
        own = [self._excluded] * len(queries)
        if exclude is not None:
            own = [np.union1d(self._excluded, np.asarray(ids, dtype=np.int64)) for ids in exclude]
        return self._memory.search(queries, exclude=own, **options)

    def _visible(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids[~np.isin(ids, self._excluded)]


def without(memory: "Memory", excluded: NDArray[np.int64]) -> "Memory":
    """The memory without the excluded pairs; itself where there are none."""
    return cast("Memory", MemoryWithout(memory, excluded)) if len(excluded) else memory
