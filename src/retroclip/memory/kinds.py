"""FAISS indexes of rows known by their positions: any factory string, built in pieces, picked from under a filter."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.candidates import Candidates
from retroclip.memory.exact import LEAST_K, rescored
from retroclip.memory.progress import Done, nothing
from retroclip.memory.rows import Rows, chunks, sampled
from retroclip.memory.schema import FloatMatrix, IdArray

faiss: Any = faiss_module  # its type stubs know neither the search parameters of HNSW nor keyword arguments
HNSW_CONSTRUCTION = 128
TRAIN_ROWS = 64  # rows a list or code word that an index is trained on
OPQ_ROUNDS = 10  # of 50: the rest gains little and takes most of the time
SEED = 0
AROUND = 2  # times as many rows around a query as hold, on average, those that a filter is to leave
HELD = 2**23  # rows found at a time, over all queries


class FaissIndex:
    """A FAISS index; `places` are positions in the rows that it was built from."""

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def read(cls, path: Path) -> "FaissIndex":
        """Read a stored index, memory-mapped where FAISS can do so."""
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def nearest(
        self, queries: torch.Tensor, rows: Rows, k: int, parameters: dict[str, int], allowed: torch.Tensor | None = None
    ) -> tuple[IdArray, FloatMatrix]:
        """Positions and scores (n, k), best first, -1 and -inf in empty places. allowed: bool by position.

        With `rerank`, that many times as many rows are found by their codes, and scored exactly from `rows`.
        A graph doesn't lead to rows of one kind from a query of another, and nothing tells when it went astray. So
        `allowed` picks from the nearest rows, up to `AROUND` times as many as hold enough allowed ones on average; a
        query that is left too few gets none at all. [D]
        """
        width = parameters["rerank"] * max(k, LEAST_K) if "rerank" in parameters else k
        depth = width
        if allowed is not None:
            share = max(int(allowed.sum()), 1) / max(len(self), 1)
            depth = math.ceil(width / share * min(AROUND, 1 + 4 * (1 - share)))
        depth = min(depth, max(len(self), 1))
        parts = [
            self._nearest(part, rows, k, (width, depth), parameters, allowed)
            for part in queries.split(max(1, HELD // depth))
        ]
        return np.concatenate([found for found, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _nearest(
        self,
        queries: torch.Tensor,
        rows: Rows,
        k: int,
        sizes: tuple[int, int],
        parameters: dict[str, int],
        allowed: torch.Tensor | None,
    ) -> tuple[IdArray, FloatMatrix]:
        width, depth = sizes
        search = search_parameters(self.index, parameters, depth)
        scores, found = self.index.search(queries.numpy(), depth, params=search)
        if allowed is not None:
            kept = (found >= 0) & allowed.numpy()[found]
            kept[kept.sum(axis=1) < min(width, int(allowed.sum()))] = False
            first = np.argsort(~kept, axis=1, kind="stable")[:, :width]
            found, scores, kept = (np.take_along_axis(each, first, axis=1) for each in (found, scores, kept))
            found[~kept] = -1
        if "rerank" in parameters:
            candidates = Candidates(len(queries), width)
            places = torch.from_numpy(found)
            candidates.hold(places, torch.from_numpy(scores))
            return rescored(queries, rows, None, candidates, k)
        if found.shape[1] < k:
            found = np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)
            scores = np.pad(scores, ((0, 0), (0, k - scores.shape[1])))
        scores[found < 0] = -np.inf
        return found, scores


def build_faiss(factory: str, rows: Rows, done: Done = nothing) -> Any:
    """The index that a FAISS factory string describes, by inner product, trained on a sample and filled in pieces.

    Raises MemoryStoreError for a string that FAISS doesn't understand, and where there are too few rows to train it.
    """
    index = empty_index(factory, rows.gather(np.zeros(1, np.int64)).shape[1])
    for part in _parts(index):
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.efConstruction = HNSW_CONSTRUCTION
        if isinstance(part, faiss.IndexIVF):
            part.cp.spherical = True
            part.cp.min_points_per_centroid = 1
            part.cp.seed = SEED
        if isinstance(part, faiss.OPQMatrix):
            part.niter = OPQ_ROUNDS
    if not index.is_trained:
        try:
            index.train(sampled(rows, training_rows(index)))
        except RuntimeError as error:
            raise MemoryStoreError(f"{factory} can't be trained on {len(rows)} rows: {_reason(error)}") from error
    add_rows(index, rows, done)
    return index


def empty_index(factory: str, dim: int) -> Any:
    """An untrained index by a factory string. Raises MemoryStoreError for one that FAISS doesn't understand."""
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise MemoryStoreError(
            f"FAISS can't make an index {factory!r} of dimension {dim} ({_reason(error)}): give auto, exact, "
            "flat, hnsw, ivf, ivfpq, or a factory string such as IVF1024,SQ8"
        ) from error


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source and the test that failed there."""
    return re.sub(r"^Error in .* at \S+:\d+: |Error: '.*' failed: ", "", str(error).strip().splitlines()[-1])


def add_rows(index: Any, rows: Rows, done: Done = nothing) -> None:
    """Append rows to an index, a chunk at a time."""
    for places in chunks(len(rows)):
        index.add(rows.gather(places).numpy())
        rows.release()
        done(int(places[-1]) + 1)


def training_rows(index: Any) -> int:
    """How many rows its lists and code words are trained on."""
    return max(TRAIN_ROWS * (lists_of(index) or 0), 256 * TRAIN_ROWS)


def lists_of(index: Any) -> int | None:
    """The number of lists of an index that has lists."""
    return next((int(part.nlist) for part in _parts(index) if isinstance(part, faiss.IndexIVF)), None)


def is_graph(index: Any) -> bool:
    """Whether rows are searched along a graph."""
    return any(isinstance(part, faiss.IndexHNSW) for part in _parts(index))


def is_lossy(index: Any) -> bool:
    """Whether it keeps codes of the rows, from which scores come out only roughly."""
    last = list(_parts(index))[-1]
    return not isinstance(last, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat)


def _parts(index: Any) -> Iterator[Any]:
    """An index, what transforms its rows, and what lies in it; quantizers of lists are left out."""
    index = faiss.downcast_index(index)
    yield index
    if isinstance(index, faiss.IndexPreTransform):
        for number in range(index.chain.size()):
            yield faiss.downcast_VectorTransform(index.chain.at(number))
        yield from _parts(index.index)
    elif isinstance(index, faiss.IndexRefine):
        yield from _parts(index.base_index)


def search_parameters(index: Any, parameters: dict[str, int], k: int) -> Any:
    """FAISS search parameters, nested like the index. parameters: nprobe, efSearch, whichever apply."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=search_parameters(index.index, parameters, k))
    if isinstance(index, faiss.IndexRefine):
        inner = search_parameters(index.base_index, parameters, k)
        return faiss.IndexRefineSearchParameters(k_factor=4, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        nprobe = min(parameters.get("nprobe", 1), int(index.nlist))
        options: dict[str, Any] = {"nprobe": nprobe}
        if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
            options["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=max(2 * nprobe, 64))
        return faiss.SearchParametersIVF(**options)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(parameters.get("efSearch", 64), k))
    return faiss.SearchParameters()
