"""Search parameters that reach the wanted recall, and what was measured with them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retroclip.memory.exact import exact_search
from retroclip.memory.kinds import FaissIndex, is_graph, is_lossy, lists_of
from retroclip.memory.lists import ListIndex
from retroclip.memory.rows import ChosenRows, Rows
from retroclip.memory.schema import FloatMatrix, IdArray

RECALL_AT = (1, 10, 20)
QUERIES = 256
BATCH = 1000
RESERVE = 0.2
RERANK = (1, 2, 4, 8, 16, 32)
TIE = 1e-5  # captions that are the same text have the same embedding, and any of them is as good as another


@dataclass(frozen=True, slots=True)
class Sample:
    """Queries to measure with: unit-norm (n, d), and the position of each in the rows, which is not to count; or -1."""

    queries: torch.Tensor
    places: IdArray

    @classmethod
    def of(cls, rows: Rows, count: int = QUERIES) -> "Sample":
        """`count` of the rows, at even steps."""
        places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
        queries = rows.gather(places)
        rows.release()
        return cls(queries, places)

    def between(self) -> "Sample":
        """Queries halfway between two of these, which no row lies near: as far from the rows as new images are. [D]

        A stored row has its own kind in its own list, and so asks for less of the lists than what was never seen.
        """
        others = self.queries.roll(len(self.queries) // 2, 0)
        return Sample(torch.nn.functional.normalize(self.queries + others, dim=-1), np.full(len(others), -1))

    def foreign(self) -> "Sample":
        """The same as queries of other rows, where their positions mean nothing."""
        return Sample(self.queries, np.full(len(self.places), -1))


def own_samples(rows: Rows) -> dict[str, Sample]:
    """What an index is tuned for whatever else there is: its own rows as queries, and queries between them."""
    own = Sample.of(rows)
    return {"own": own, "unseen": own.between()}


def tuned(
    index: Any, rows: Rows, samples: dict[str, Sample], target: float
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """The cheapest search parameters that reach `target` recall@10 for every sample, and the recall of each with them.

    Samples are small, so a fifth of what is allowed to be missed is kept in reserve: 0.96 is sought for 0.95. Where
    nothing reaches it, the dearest parameters are taken. Recall is the share of the exact 1, 10 and 20 nearest rows
    that is found, or rows that lie as near.
    """
    width = max(RECALL_AT) + 1
    target += (1 - target) * RESERVE
    wanted = _exact_scores(rows, samples, width)
    parameters: dict[str, int] = {}
    recall: dict[str, dict[str, float]] = {}

    def reaches(candidate: dict[str, int]) -> bool:
        nonlocal parameters, recall
        measured = {}
        for name, sample in samples.items():
            ids, scores = index.nearest(sample.queries, rows, width, candidate)
            found = _without(ids, scores, sample.places)
            measured[name] = {str(n): recall_of(wanted[name][:, :n], found[:, :n]) for n in RECALL_AT}
        enough = all(each["10"] >= target for each in measured.values())
        if enough or not recall or min(e["10"] for e in recall.values()) < target:
            parameters, recall = candidate, measured
        return enough

    for candidate in choices(index):
        if reaches(candidate):
            break
    for rerank in RERANK:  # the search was widened with much scored again: how little is enough?
        if rerank >= parameters.get("rerank", 0) or reaches({**parameters, "rerank": rerank}):
            break
    return parameters, recall


def _exact_scores(rows: Rows, samples: dict[str, Sample], width: int) -> dict[str, FloatMatrix]:
    """The scores (n, width - 1) of each sample's nearest rows, best first, by one pass over the rows.

    Rows are read a chunk at a time: an exact search of many would keep a copy of all of them in RAM for the next one.
    """
    everything = np.arange(len(rows))
    queries = torch.cat([sample.queries for sample in samples.values()])
    found, scores = exact_search(queries, ChosenRows(rows, everything), everything, width)
    ends = np.cumsum([len(sample.places) for sample in samples.values()])[:-1]
    parts = zip(samples.items(), np.split(found, ends), np.split(scores, ends), strict=True)
    return {name: _without(ids, own, sample.places) for (name, sample), ids, own in parts}


def choices(index: Any) -> Iterator[dict[str, int]]:
    """Search parameters from cheap to dear."""
    if isinstance(index, ListIndex):
        yield from ({"nprobe": nprobe, "rerank": 4} for nprobe in _doubling(4, len(index.centroids)))
        yield from ({"nprobe": len(index.centroids), "rerank": rerank} for rerank in (16, 64))
        return
    inner = index.index if isinstance(index, FaissIndex) else index
    lists, lossy = lists_of(inner), is_lossy(inner)
    for rerank in (8, 32) if lossy else (0,):
        extra = {"rerank": rerank} if rerank else {}
        if is_graph(inner):
            yield from ({"efSearch": width, **extra} for width in _doubling(32, 2048))
        elif lists:
            yield from ({"nprobe": nprobe, **extra} for nprobe in _doubling(4, lists))
        else:
            yield extra


def _doubling(first: int, last: int) -> Iterator[int]:
    while first < last:
        yield first
        first *= 2
    yield last


def recall_of(exact: FloatMatrix, found: FloatMatrix) -> float:
    """The mean share of the exact nearest rows that is found, by their scores (n, k), -inf in empty places.

    Of rows that lie as near as the last exact one any will do.
    """
    places = np.isfinite(exact).sum(axis=1)
    last = np.where(np.isfinite(exact), exact, np.inf).min(axis=1, keepdims=True)
    shares = ((found >= last - TIE).sum(axis=1) / places.clip(1))[places > 0]
    return round(float(np.mean(shares)), 4) if len(shares) else 1.0


def _without(found: IdArray, scores: FloatMatrix, places: IdArray) -> FloatMatrix:
    """The scores (n, k + 1) of the rows found but for each query's own place, k wide."""
    kept = (found != places[:, None]) | (places < 0)[:, None]
    kept[kept.all(axis=1), -1] = False
    return scores[kept].reshape(len(found), -1)


def latency(index: Any, rows: Rows, parameters: dict[str, int]) -> dict[str, float]:
    """Milliseconds a query for k = 10, in batches of up to 1,000 and alone; the better of two runs."""
    queries = Sample.of(rows, BATCH).queries
    result: dict[str, float] = {"batch": len(queries)}
    for name, part in (("ms", queries), ("ms_alone", queries[:1])):
        runs = []
        for _ in range(2):
            start = time.perf_counter()
            index.nearest(part, rows, 10, parameters)
            runs.append(time.perf_counter() - start)
        result[name] = round(1000 * min(runs) / len(part), 3)
    return result
