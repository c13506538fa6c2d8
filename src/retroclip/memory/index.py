"""FAISS indexes beside the rows: built, measured, stored with a checksum, and searched under a selector of row ids."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import faiss as faiss_module
import numpy as np

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import read_json, write_json
from retroclip.memory.schema import FloatMatrix, IdArray

faiss: Any = faiss_module  # its type stubs know neither the search parameters of HNSW nor keyword arguments
IndexKind = Literal["exact", "flat", "hnsw"]
Exact = Callable[[FloatMatrix, int], IdArray]
INDEX_FOLDER = "index"
INDEX_NAME = "index.json"
EXACT_ROWS = 100_000  # up to here one matrix product is as fast as a graph, and exact
RECALL_AT = (1, 10, 20)
RECALL_QUERIES = 128
HNSW_LINKS = 32
HNSW_CONSTRUCTION = 128
EF_SEARCH = (64, 128, 256, 512, 1024)


@dataclass(slots=True)
class KeyIndex:
    """One stored index, over the embeddings of one key modality.

    version: the store's version it was built from; rows: how many it holds; last_row_id: rows with larger ids are newer
    and not in it; recall: its share of the exact top 1, 10 and 20 for queries of its own modality ("own") and of the
    other one ("cross").
    """

    kind: IndexKind
    version: int
    rows: int
    last_row_id: int
    parameters: dict[str, int]
    recall: dict[str, dict[str, float]]
    file: str = ""
    sha256: str = ""


def build_index(kind: IndexKind, ids: IdArray, rows: FloatMatrix) -> Any:
    """A FAISS inner-product index of rows (m, d) float32 that answers with the ids (m,)."""
    dim = rows.shape[1]
    if kind == "hnsw":
        inner = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        inner.hnsw.efConstruction = HNSW_CONSTRUCTION
    else:
        inner = faiss.IndexFlatIP(dim)
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(rows, ids)
    return index


def search_index(
    index: Any, queries: FloatMatrix, k: int, parameters: dict[str, int], allowed: IdArray | None = None
) -> tuple[IdArray, FloatMatrix]:
    """Search a FAISS index among the `allowed` ids (sorted; None: all). Empty places have id -1 and score -inf.

    Under a selective filter or many deletions HNSW leaves places empty though rows remain: the caller fills them.
    """
    selector = None
    if allowed is not None:
        bits = np.zeros(int(allowed[-1]) + 1 if len(allowed) else 1, bool)
        bits[allowed] = True
        packed = np.packbits(bits, bitorder="little")
        selector = faiss.IDSelectorBitmap(packed)
    if "efSearch" in parameters:
        search = faiss.SearchParametersHNSW(sel=selector, efSearch=max(parameters["efSearch"], k))
    else:
        search = faiss.SearchParameters(sel=selector)
    scores, found = index.search(queries, k, params=search)
    scores[found < 0] = -np.inf
    return found, scores


def tuned_parameters(
    kind: IndexKind, index: Any, exact: Exact, queries: dict[str, FloatMatrix], target: float
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Search parameters that reach `target` recall@10 for every set of queries, and the recall measured with them.

    HNSW: the smallest efSearch of `EF_SEARCH` that does, or the largest. queries: {"own": (n, d), "cross": (n, d)};
    exact: a function from queries and k to the ids (n, k) that exact search finds.
    """
    wanted = {name: exact(vectors, max(RECALL_AT)) for name, vectors in queries.items() if len(vectors)}
    fixed = {"M": HNSW_LINKS, "efConstruction": HNSW_CONSTRUCTION}
    choices = [{**fixed, "efSearch": width} for width in EF_SEARCH] if kind == "hnsw" else [{}]
    for parameters in choices:
        recall = {}
        for name, best in wanted.items():
            found, _ = search_index(index, queries[name], max(RECALL_AT), parameters)
            recall[name] = {str(n): round(_recall(best[:, :n], found[:, :n]), 4) for n in RECALL_AT}
        if all(measured["10"] >= target for measured in recall.values()):
            break
    return parameters, recall


def _recall(exact: IdArray, found: IdArray) -> float:
    shares = [np.isin(e[e >= 0], f).mean() for e, f in zip(exact, found, strict=True) if (e >= 0).any()]
    return float(np.mean(shares)) if shares else 1.0


class IndexFolder:
    """The stored indexes of a memory, `index.json` naming them; a new set replaces the old one at once."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / INDEX_FOLDER
        self._opened: dict[str, tuple[str, Any]] = {}

    def entries(self) -> dict[str, KeyIndex]:
        """The stored indexes by key modality; none: search is exact."""
        try:
            content = read_json(self.folder / INDEX_NAME)
        except FileNotFoundError:
            return {}
        return {name: KeyIndex(**entry) for name, entry in content["keys"].items()}

    def load(self, name: str, entry: KeyIndex) -> Any:
        """The FAISS index of an entry, kept open. Raises MemoryStoreError when its bytes are not those written."""
        if name not in self._opened or self._opened[name][0] != entry.sha256:
            problem = self.problem(entry)
            if problem:
                raise MemoryStoreError(problem)
            self._opened[name] = (entry.sha256, faiss.read_index(str(self.folder / entry.file)))
        return self._opened[name][1]

    def problem(self, entry: KeyIndex) -> str | None:
        """What is wrong with a stored index file: FAISS itself loads one with a flipped bit without a word."""
        path = self.folder / entry.file
        if not path.exists():
            return f"{path} is missing: build it again with `retroclip memory index {self.folder.parent}`"
        if _sha256(path) != entry.sha256:
            return f"{path} is damaged: build it again with `retroclip memory index {self.folder.parent}`"
        return None

    def replace(self, built: dict[str, tuple[KeyIndex, Any]]) -> None:
        """Store indexes in place of the present ones; `entry.file` and `entry.sha256` are filled in."""
        self.folder.mkdir(exist_ok=True)
        for name, (entry, index) in built.items():
            temporary = self.folder / f"{name}.tmp"
            faiss.write_index(index, str(temporary))
            entry.sha256 = _sha256(temporary)
            entry.file = f"{name}-{entry.kind}-{entry.sha256[:12]}.faiss"
            _flushed(temporary).replace(self.folder / entry.file)
        keys = {name: asdict(entry) for name, (entry, _) in built.items()}
        write_json(self.folder / INDEX_NAME, {"keys": keys})
        self._tidy({entry.file for entry, _ in built.values()})

    def _tidy(self, wanted: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name != INDEX_NAME and path.name not in wanted:
                path.unlink(missing_ok=True)


def sampled(rows: FloatMatrix, count: int = RECALL_QUERIES) -> FloatMatrix:
    """`count` rows at even steps: the queries that recall is measured with."""
    if len(rows) <= count:
        return rows
    return np.ascontiguousarray(rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)])


def planned_kind(rows: int) -> IndexKind:
    """What `auto` means for so many rows."""
    return "exact" if rows <= EXACT_ROWS else "hnsw"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path
