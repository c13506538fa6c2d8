"""One search over stored index, newer rows and filters: exact where that is cheap or needed, k always filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.exact import exact_search, positions_of
from retroclip.memory.index import KeyIndex, search_index
from retroclip.memory.schema import FloatMatrix, IdArray

EXACT_SHARE = 0.2
"""When filters and deletions leave less of an index's rows, search is exact: a graph would mostly walk over others."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Nearest rows, best first: ids (n, k) int64 and cosines (n, k) float32; -1 and -inf where fewer rows match."""

    ids: IdArray
    scores: FloatMatrix


@dataclass(frozen=True, slots=True)
class Keys:
    """The rows that can be found by one modality: sorted ids (m,) and unit-norm embeddings (m, d) float32."""

    ids: IdArray
    rows: torch.Tensor

    def only(self, allowed: IdArray) -> "Keys":
        """Those among the sorted ids `allowed`."""
        places = positions_of(allowed, self.ids)
        return Keys(self.ids[places], self.rows[torch.from_numpy(places)])

    def nearest(self, queries: FloatMatrix, k: int) -> IdArray:
        """Ids (n, k) of the exact nearest rows."""
        return exact_search(torch.from_numpy(queries), self.rows, self.ids, k)[0]


def as_queries(queries: Any, dim: int) -> torch.Tensor:
    """Queries as unit-norm float32 (n, d). Raises MemoryStoreError for another shape or values that are not finite."""
    vectors = torch.as_tensor(queries).detach().to("cpu", torch.float32)
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise MemoryStoreError(f"queries have shape {tuple(vectors.shape)}, the memory needs (n, {dim}): use its model")
    if not torch.isfinite(vectors).all():
        raise MemoryStoreError("queries contain NaN or infinite values: check the encoder's output")
    return torch.nn.functional.normalize(vectors, dim=1)


def search_keys(
    queries: torch.Tensor,
    keys: Keys,
    k: int,
    *,
    index: Any = None,
    entry: KeyIndex | None = None,
    allowed: IdArray | None = None,
    exclude: Sequence[IdArray] | None = None,
) -> Hits:
    """The k best live rows of `keys` for each query.

    keys: all live rows. index, entry: a stored index over older rows, some of which may be gone. allowed: sorted ids a
    filter keeps. exclude: for each query the ids it must not get.
    """
    if index is None or entry is None:
        return Hits(*_exact(queries, keys, k, allowed, exclude))
    live = keys.ids if allowed is None else keys.ids[positions_of(allowed, keys.ids)]
    old = live[live <= entry.last_row_id]
    if len(old) < EXACT_SHARE * entry.rows:
        return Hits(*_exact(queries, keys, k, live, exclude))
    selector = None if len(old) == entry.rows else old
    spare = max((len(banned) for banned in exclude), default=0) if exclude is not None else 0
    found, scores = search_index(index, queries.numpy(), k + spare, entry.parameters, selector)
    newer = keys.only(live[live > entry.last_row_id])
    if len(newer.ids):
        new_found, new_scores = exact_search(queries, newer.rows, newer.ids, k + spare)
        found, scores = np.hstack([found, new_found]), np.hstack([scores, new_scores])
    found, scores = best_of(found, scores, k, exclude)
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):
        left = None if exclude is None else [exclude[int(i)] for i in short]
        found[short], scores[short] = _exact(queries[short], keys, k, allowed, left)
    return Hits(found, scores)


def _exact(
    queries: torch.Tensor, keys: Keys, k: int, allowed: IdArray | None, exclude: Sequence[IdArray] | None
) -> tuple[IdArray, FloatMatrix]:
    kept = keys if allowed is None else keys.only(allowed)
    return exact_search(queries, kept.rows, kept.ids, k, exclude)


def best_of(
    found: IdArray, scores: FloatMatrix, k: int, exclude: Sequence[IdArray] | None
) -> tuple[IdArray, FloatMatrix]:
    """The k best of (n, m) candidates for each query, without the excluded ids, in order; empty places last."""
    if exclude is not None:
        for row, values, banned in zip(found, scores, exclude, strict=True):
            values[np.isin(row, banned)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    return np.where(np.isneginf(scores), -1, np.take_along_axis(found, order, axis=1)), scores
