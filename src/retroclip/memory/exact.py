"""Exact nearest rows by matrix products: in float32, or in bfloat16 with the candidates scored again in float32.

Where bfloat16 is no faster, few queries and large batches over rows in RAM are FAISS's: it needs no matrix of scores.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from retroclip.encoders.precision import has_fast_bf16
from retroclip.memory.candidates import Candidates
from retroclip.memory.rows import HalfRows, HeldRows, Rows, chunks
from retroclip.memory.schema import FloatMatrix, IdArray

faiss: Any = faiss_module  # its type stubs don't know keyword arguments
CHUNK_SCORES = 2**24  # scores held at a time: 64 MB
COARSE_ROWS = 2**14  # rows of one bfloat16 product: its scores stay in the cache
COARSE_QUERIES = 512
LEAST_K = 20  # searches for fewer score as many candidates again
RESCORED = 2**10  # rows gathered at a time: they stay in the cache
COARSE_LEAST = 2**12  # rows; over fewer, scoring the candidates again takes longer than all products in float32
FEW = 8  # queries; fewer take as long in either format, and FAISS's loops are faster than torch's products
COPY_LEAST = 64  # queries worth a bfloat16 copy of rows that are held in float32
FLAT_LEAST = 256  # queries whose float32 products FAISS makes faster than torch
SUMMED = 1e-4  # more than sums of some thousand products of float32 err by, as a share of both norms


def exact_search(
    queries: torch.Tensor,
    rows: torch.Tensor | Rows,
    ids: IdArray,
    k: int,
    exclude: Sequence[IdArray] | None = None,
    hidden: IdArray | None = None,
) -> tuple[IdArray, FloatMatrix]:
    """The k rows with the largest inner product for each query, best first.

    queries (n, d) float32, rows (m, d); ids (m,) sorted; exclude: for each query the ids it must not get; hidden: ids
    that none gets.
    Returns ids (n, k) and scores (n, k); where fewer than k rows remain, ids are -1 and scores -inf.
    """
    held = HeldRows(rows) if isinstance(rows, torch.Tensor) else rows
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    if not min(k, len(held), len(queries)):
        return found, scores
    banned = None if exclude is None else [positions_of(own, ids) for own in exclude]
    veiled = None if hidden is None else positions_of(hidden, ids)
    if banned is None and veiled is None and isinstance(held, HalfRows | HeldRows):
        copied = isinstance(held, HalfRows) or held.has_coarse
        few = len(queries) < FEW
        if not few and (copied or len(queries) >= COPY_LEAST) and len(held) >= COARSE_LEAST and fast_bf16():
            return coarse_search(queries, held, ids, k)
        if isinstance(held, HeldRows) and (few or len(queries) >= FLAT_LEAST):
            return flat_search(queries, held, ids, k)
    parts = [np.arange(0, len(held))] if isinstance(held, HeldRows) else chunks(len(held))
    for places in parts:
        matrix = held.matrix if isinstance(held, HeldRows) else held.gather(places)
        step = max(1, CHUNK_SCORES // len(places))
        for start in range(0, len(queries), step):
            chunk = queries[start : start + step] @ matrix.T
            if veiled is not None:
                chunk[:, _within(veiled, places)] = -torch.inf
            for row, own in zip(chunk, banned[start : start + step], strict=True) if banned is not None else ():
                row[_within(own, places)] = -torch.inf
            best, columns = block_topk(chunk, min(k, len(places)))
            values, names = best.numpy(), ids[places[0] + columns.numpy()]
            here = slice(start, start + step)
            if len(places) < len(held):
                names, values = np.hstack([found[here], names]), np.hstack([scores[here], values])
                order = np.argsort(-values, axis=1, kind="stable")[:, :k]
                names, values = np.take_along_axis(names, order, 1), np.take_along_axis(values, order, 1)
            found[here, : values.shape[1]] = np.where(np.isneginf(values), -1, names)
            scores[here, : values.shape[1]] = values
        held.release()
    return found, scores


def flat_search(queries: torch.Tensor, rows: HeldRows, ids: IdArray, k: int) -> tuple[IdArray, FloatMatrix]:
    """`exact_search` by FAISS's products of blocks."""
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    width, product = min(k, len(rows)), faiss.METRIC_INNER_PRODUCT
    values, places = faiss.knn(queries.contiguous().numpy(), rows.matrix.contiguous().numpy(), width, metric=product)
    found[:, :width], scores[:, :width] = ids[places], values
    return found, scores


def coarse_search(
    queries: torch.Tensor, rows: HalfRows | HeldRows, ids: IdArray, k: int
) -> tuple[IdArray, FloatMatrix]:
    """`exact_search` with the bulk of the products in bfloat16, and still exact.

    The score of a rounded query q' = q + e with a rounded row x' = x + f differs from the true one by at most
    |e|·|x'| + |q|·|f| (Cauchy-Schwarz), and is itself rounded. With that bound m, a row of the true k best scores at
    least (k-th best) - 2m before rounding: all such rows, few more than k, are scored again in float32.
    """
    coarse = rows.coarse()
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    width = min(k, len(rows))
    for start in range(0, len(queries), COARSE_QUERIES):
        chunk = queries[start : start + COARSE_QUERIES]
        rounded = chunk.bfloat16()
        error = (chunk - rounded.float()).norm(dim=1) * coarse.norm + chunk.norm(dim=1) * coarse.error
        error += SUMMED * chunk.norm(dim=1) * coarse.norm
        candidates = Candidates(len(chunk), width, margin=2 * error)
        everyone = torch.arange(len(chunk))
        for number, first in enumerate(range(0, len(rows), COARSE_ROWS)):
            block = coarse.matrix[first : first + COARSE_ROWS]
            candidates.offer(everyone, rounded @ block.T, torch.arange(first, first + len(block)))
            if number & (number + 1) == 0:  # after 1, 2, 4, 8, … blocks: the bar rises ever more slowly
                candidates.settle()
        here = slice(start, start + COARSE_QUERIES)
        found[here, :width], scores[here, :width] = rescored(chunk, rows, ids, candidates, width)
    return found, scores


def rescored(
    queries: torch.Tensor, rows: Rows, ids: IdArray | None, candidates: Candidates, k: int
) -> tuple[IdArray, FloatMatrix]:
    """The k best candidates of each query by their float32 scores, as ids (None: places) and scores (n, k)."""
    of, places, _ = candidates.settle()
    values = torch.empty(len(of))
    for start in range(0, len(of), RESCORED):
        here = slice(start, start + RESCORED)
        values[here] = torch.linalg.vecdot(queries.index_select(0, of[here]), rows.gather(places[here].numpy()))
        rows.release()  # each row brings its neighbours in the file with it
    order = values.argsort(descending=True, stable=True)
    order = order[of[order].argsort(stable=True)]
    counts = torch.bincount(of, minlength=len(queries))
    rank = torch.arange(len(of)) - (counts.cumsum(0) - counts)[of[order]]
    kept = rank < k
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    chosen, columns = order[kept], rank[kept].numpy()
    lines = of[chosen].numpy()
    best = places[chosen].numpy()
    found[lines, columns] = best if ids is None else ids[best]
    scores[lines, columns] = values[chosen].numpy()
    return found, scores


@cache
def fast_bf16() -> bool:
    """Whether this processor multiplies matrices clearly faster in bfloat16."""
    return has_fast_bf16(torch.device("cpu"))


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


def _within(positions: IdArray, places: IdArray) -> torch.Tensor:
    """Those of the positions that lie in the run `places`, counted from its start."""
    return torch.from_numpy(positions[(positions >= places[0]) & (positions <= places[-1])] - places[0])


def positions_of(wanted: IdArray, ids: IdArray) -> IdArray:
    """Positions in the sorted `ids` of those of `wanted` that are there; others are left out."""
    wanted = np.asarray(wanted, np.int64).reshape(-1)
    if not len(ids):
        return np.zeros(0, np.int64)
    places = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return places[ids[places] == wanted]
