"""One search over stored index, newer rows and filters: exact where that is cheap or needed, k always filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.exact import exact_search, positions_of
from retroclip.memory.index import OpenIndex
from retroclip.memory.lists import ListIndex
from retroclip.memory.rows import ChosenRows, HeldRows, Rows
from retroclip.memory.schema import FloatMatrix, IdArray

EXACT_SHARE = 0.2
"""When filters and deletions leave less of an index's rows, search is exact: a graph finds mostly others."""
EXACT_SHARE_OF_LISTS = 0.05
TUNED_FOR = 20
"""So many neighbours are found as surely as the ten that search parameters are chosen for."""
EXACT_LEFT = 10_000
"""So few rows are always searched exactly."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Nearest rows, best first: ids (n, k) int64 and cosines (n, k) float32; -1 and -inf where fewer rows match."""

    ids: IdArray
    scores: FloatMatrix


@dataclass(frozen=True, slots=True)
class Keys:
    """The live rows that can be found by one modality: sorted ids (m,) and their unit-norm embeddings, (m, d).

    places: positions in an index's rows of the first of them; the others are newer than the index.
    """

    ids: IdArray
    rows: Rows
    places: IdArray | None = None

    def chosen(self, positions: IdArray) -> "Keys":
        """Those at the given sorted positions, without reference to an index."""
        if isinstance(self.rows, HeldRows):
            return Keys(self.ids[positions], HeldRows(self.rows.gather(positions)))
        return Keys(self.ids[positions], ChosenRows(self.rows, positions))


def as_queries(queries: Any, dim: int) -> torch.Tensor:
    """Queries as unit-norm float32 (n, d). Raises MemoryStoreError for another shape, no numbers, or infinite ones."""
    try:
        vectors = torch.as_tensor(queries).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MemoryStoreError(f"queries are no array of numbers ({error}): give (n, {dim})") from None
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
    opened: OpenIndex | None = None,
    allowed: IdArray | None = None,
    exclude: Sequence[IdArray] | None = None,
    hidden: IdArray | None = None,
) -> Hits:
    """The k best live rows of `keys` for each query.

    keys: all live rows. opened: a stored index over the older ones. allowed: sorted ids a filter keeps. exclude: for
    each query the ids it must not get; hidden: ids that none gets, as many as there may be. Where rows that match are
    few, or the index leaves places empty, all of them are compared; else index and newer rows are searched and merged.
    """
    if allowed is not None and hidden is not None:
        allowed, hidden = np.setdiff1d(allowed, hidden), None
    if opened is None or keys.places is None or not len(queries):
        return Hits(*_exact(queries, keys, k, allowed, hidden, exclude))
    live = np.arange(len(keys.ids)) if allowed is None else positions_of(allowed, keys.ids)
    if hidden is not None:
        live = np.delete(live, positions_of(hidden, keys.ids))
    old = live[: np.searchsorted(live, len(keys.places))]
    share = len(old) / max(len(opened.ids), 1)
    least = EXACT_SHARE_OF_LISTS if isinstance(opened.index, ListIndex) else EXACT_SHARE
    if share < least or (len(old) <= EXACT_LEFT and share < 1):
        return Hits(*_exact(queries, keys, k, allowed, hidden, exclude))
    spare = max((len(own) for own in exclude), default=0) if exclude is not None else 0
    mask = None
    if len(old) < len(opened.ids):
        mask = torch.zeros(len(opened.ids), dtype=torch.bool)
        mask[torch.from_numpy(keys.places[old])] = True
    parameters = widened(opened.entry.parameters, share, k + spare)
    places, scores = opened.index.nearest(queries, opened.rows, k + spare, parameters, mask)
    found = np.where(places < 0, -1, opened.ids[places])
    astray = (places >= 0).sum(axis=1) < min(len(old), k + spare)
    newer = live[len(old) :]
    if len(newer):
        fresh = keys.chosen(newer)
        new_found, new_scores = exact_search(queries, fresh.rows, fresh.ids, k + spare)
        found, scores = np.hstack([found, new_found]), np.hstack([scores, new_scores])
    if exclude is not None:  # what is left lies as far away as under a filter that follows the index
        most = max(k, TUNED_FOR)
        astray |= np.array([np.isin(row, own).sum() > most for row, own in zip(found, exclude, strict=True)], bool)
    found, scores = best_of(found, scores, k, exclude)
    short = np.flatnonzero(astray | ((found < 0).any(axis=1) & (len(live) >= k)))
    if len(short):
        banned = None if exclude is None else [exclude[int(i)] for i in short]
        found[short], scores[short] = _exact(queries[short], keys, k, allowed, hidden, banned)
    return Hits(found, scores)


def widened(parameters: dict[str, int], share: float, k: int) -> dict[str, int]:
    """Search parameters for a filter that keeps this share of the rows, and for k of them.

    The nearest rows that a filter keeps lie farther away, and so do more than the twenty that parameters are tuned for.
    A graph looks at k rows at least whatever its parameter.
    """
    factors = {"nprobe": (share / max(k / TUNED_FOR, 1)) ** -0.5, "efSearch": share**-0.5}
    return {name: round(value * factors.get(name, 1)) for name, value in parameters.items()}


def _exact(
    queries: torch.Tensor,
    keys: Keys,
    k: int,
    allowed: IdArray | None,
    hidden: IdArray | None,
    exclude: Sequence[IdArray] | None,
) -> tuple[IdArray, FloatMatrix]:
    kept = keys if allowed is None else keys.chosen(positions_of(allowed, keys.ids))
    return exact_search(queries, kept.rows, kept.ids, k, exclude, hidden)


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
