"""Near-duplicates of evaluation images in a memory: found, counted, and kept out of every method's sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.evaluation.samples import Samples
    from retroclip.fusion import MemoryEncoder
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


def shielded(
    encoder: "Encoder", sets: Sequence["Samples"], *, threshold: float = NEAR
) -> tuple["Encoder", NDArray[np.int64]]:
    """An encoder that consults a memory, with the near-duplicates of all `sets` hidden there, and their ids.

    Any other encoder comes back as it is, with no ids.
    """
    if getattr(encoder, "memory", None) is None:
        return encoder, np.zeros(0, np.int64)
    consulting = cast("MemoryEncoder", encoder)
    excluded = near_duplicates(consulting.memory, base_embeddings(consulting.base, sets), threshold=threshold)
    if not len(excluded):
        return encoder, excluded
    return cast("Encoder", consulting.with_memory(without(consulting.memory, excluded))), excluded


def base_embeddings(encoder: "Encoder", sets: Sequence["Samples"]) -> torch.Tensor:
    """Image embeddings `(n, d)` of all sets, one after the other; each set keeps its own."""
    return torch.cat([samples.embed_base(encoder) for samples in sets])


def memory_record(memory: "Memory | None", excluded: NDArray[np.int64], threshold: float | None) -> dict[str, Any]:
    """The fields of a `Result` about the memory that was used, `excluded` being hidden in it; none without a memory."""
    if memory is None:
        return {}
    return {
        "memory": Path(memory.path).name,
        "memory_pairs": len(memory) + len(excluded),
        "excluded_near_duplicates": len(excluded),
        "near_threshold": threshold,
    }
