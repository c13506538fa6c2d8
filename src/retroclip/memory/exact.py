"""Exact nearest rows by one matrix product, in chunks of queries."""

from collections.abc import Sequence

import numpy as np
import torch

from retroclip.memory.schema import FloatMatrix, IdArray

CHUNK_SCORES = 2**24  # scores held at a time: 64 MB


def exact_search(
    queries: torch.Tensor,
    rows: torch.Tensor,
    ids: IdArray,
    k: int,
    exclude: Sequence[IdArray] | None = None,
) -> tuple[IdArray, FloatMatrix]:
    """The k rows with the largest inner product for each query, best first.

    queries (n, d), rows (m, d) float32; ids (m,) sorted; exclude: for each query the ids it must not get.
    Returns ids (n, k) and scores (n, k); where fewer than k rows remain, ids are -1 and scores -inf.
    """
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    width = min(k, len(rows))
    if not width:
        return found, scores
    step = max(1, CHUNK_SCORES // len(rows))
    shared = exclude is not None and len(exclude) > 1 and all(banned is exclude[0] for banned in exclude)
    for start in range(0, len(queries), step):
        chunk = queries[start : start + step] @ rows.T
        if exclude is not None and shared:
            chunk[:, torch.from_numpy(positions_of(exclude[0], ids))] = -torch.inf
        elif exclude is not None:
            for row, banned in zip(chunk, exclude[start : start + step], strict=True):
                row[torch.from_numpy(positions_of(banned, ids))] = -torch.inf
        best, places = block_topk(chunk, width)
        values = best.numpy()
        scores[start : start + step, :width] = values
        found[start : start + step, :width] = np.where(np.isneginf(values), -1, ids[places.numpy()])
    return found, scores


def block_topk(scores: torch.Tensor, k: int, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """`scores.topk(k)` along the columns of (n, m), about twice as fast when m is much larger than k.

    The k largest values lie in the k blocks of columns with the largest maxima, and maxima are cheap: only those
    blocks are sorted. Values and column indices (n, k), best first.
    """
    blocks = scores.shape[1] // block
    if blocks < 4 * k:
        best = scores.topk(k, dim=1)
        return best.values, best.indices
    whole = blocks * block
    chosen = scores[:, :whole].unflatten(1, (blocks, block)).amax(dim=2).topk(k, dim=1, sorted=False).indices
    columns = (chosen[:, :, None] * block + torch.arange(block)).flatten(1)
    tail = torch.arange(whole, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns, tail], dim=1)
    best = scores.gather(1, columns).topk(k, dim=1)
    return best.values, columns.gather(1, best.indices)


def positions_of(wanted: IdArray, ids: IdArray) -> IdArray:
    """Positions in the sorted `ids` of those of `wanted` that are there; others are left out."""
    wanted = np.asarray(wanted, np.int64).reshape(-1)
    if not len(ids):
        return np.zeros(0, np.int64)
    places = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return places[ids[places] == wanted]
