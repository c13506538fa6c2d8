"""What a memory answers: what it is, its rows and embeddings, and searches, at one fixed version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.check import find_problems
from retroclip.memory.describe import described
from retroclip.memory.index import OpenIndex
from retroclip.memory.location import Url, located
from retroclip.memory.lock import Reading
from retroclip.memory.manifest import Manifest
from retroclip.memory.remote import open_indexes
from retroclip.memory.rows import HeldRows
from retroclip.memory.schema import DATA_COLUMNS, IdArray
from retroclip.memory.search import Hits, Keys, as_queries, search_keys
from retroclip.memory.searchable import open_keys
from retroclip.memory.store import Store
from retroclip.pairs import Rejected

Modality = Literal["image", "text"]


class OpenMemory:
    """An open memory as readers see it; `Memory` adds what changes it."""

    def __init__(self, path: str | Path | Url) -> None:
        self.path = located(path)
        self.manifest = Manifest.load(self.path)
        self._store = Store(self.path, self.manifest.dim)
        self._indexes = open_indexes(self.path)
        self._reading = Reading(self.path)
        self._forget()

    def _forget(self) -> None:
        self._ids: IdArray | None = None
        self._keys: dict[str, Keys] = {}
        self._opened: dict[str, OpenIndex | None] = {}
        self._matching: dict[str, IdArray] = {}

    def refresh(self) -> None:
        """Go on to the newest version, for example after another process has written."""
        self._store.refresh()
        self._forget()

    # ---- what it is ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids())

    def count(self, where: str | None = None) -> int:
        """How many rows there are, or meet a predicate, without reading the others' ids."""
        return self._store.count(where)

    def __repr__(self) -> str:
        return f"Memory({str(self.path)!r}, rows={len(self)}, model={self.model!r})"

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def id(self) -> str:
        """Another one for each creation: a memory made anew at the same path isn't the same memory."""
        return self.manifest.id

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def model(self) -> str:
        """What the model that made it is called."""
        return self.manifest.model

    @property
    def model_reference(self) -> str:
        """What `retroclip.load` finds that model by, where the memory was made."""
        return self.manifest.model_reference

    @property
    def version(self) -> int:
        """Number of the store's version that is read."""
        return self._store.version

    def check_encoder(self, encoder: Any) -> None:
        """Raise MemoryStoreError unless `encoder` made this memory: another one's embeddings would match noise."""
        if encoder.fingerprint != self.fingerprint:
            raise MemoryStoreError(
                f"{self.path} was made by model {self.model} ({self.fingerprint[:12]}), not by {encoder.name} "
                f"({encoder.fingerprint[:12]}): load {self.model_reference}, or create another memory with your model"
            )

    def info(self) -> dict[str, Any]:
        """Rows, texts, labels, sources, size, model, index and its recall: what `retroclip memory info` shows."""
        return described(self.path, self.manifest, self._store, self._indexes.entries())

    def verify(self) -> list[str]:
        """Read everything and return the problems found, one line each; empty: the memory is whole."""
        return find_problems(self.path, self._store, self._indexes)

    def rejected(self) -> list[Rejected]:
        """What was left out while creating and adding, with the reasons."""
        return self._store.rejected()

    # ---- reading -------------------------------------------------------------------------------------------------

    def ids(self) -> IdArray:
        """Sorted ids of all live rows, int64 (n,)."""
        if self._ids is None:
            self._ids = self._store.ids()
        return self._ids

    def matching(self, where: str) -> IdArray:
        """Sorted ids of the rows for which the SQL predicate holds."""
        if where not in self._matching:
            self._matching[where] = self._store.matching(where)
        return self._matching[where]

    def has_text(self, ids: Any = None) -> npt.NDArray[np.bool_]:
        """For every live row, in the order of `ids()`, or for the given ones, whether it has a text embedding."""
        wanted = self.ids() if ids is None else np.asarray(ids, np.int64)
        return np.isin(wanted, self._searchable("text").ids)

    def take(self, ids: Any, columns: Sequence[str] = DATA_COLUMNS) -> pa.Table:
        """Columns of the given rows, aligned to `ids`. Raises MemoryStoreError for a row that isn't there."""
        return self._store.take(np.asarray(ids, np.int64).reshape(-1), columns)

    def embeddings(self, ids: Any = None, *, of: Modality = "image") -> torch.Tensor:
        """Unit-norm float32 embeddings: (n, d) in the order of `ids()`, or `ids.shape` + (d,) for given ids.

        Zero vectors stand for missing texts, and for ids of -1, the empty places of `Hits`. Without `ids` the tensor
        may be the one that searches use: do not change it in place. Raises MemoryStoreError for a row that isn't there.
        """
        keys = self._searchable(of)
        if ids is None and isinstance(keys.rows, HeldRows) and len(keys.ids) == len(self.ids()):
            return keys.rows.matrix
        wanted = self.ids() if ids is None else np.asarray(ids, np.int64)
        flat = wanted.reshape(-1)
        if not len(keys.ids):
            self._check_live(flat)
            return torch.zeros(*wanted.shape, self.dim)
        places = np.searchsorted(keys.ids, flat).clip(max=len(keys.ids) - 1)
        absent = keys.ids[places] != flat
        result = keys.rows.gather(places)
        keys.rows.release()
        if absent.any():
            self._check_live(flat[absent])
            result[torch.from_numpy(absent)] = 0
        return result.reshape(*wanted.shape, self.dim)

    def _check_live(self, ids: IdArray) -> None:
        gone = np.setdiff1d(ids, np.append(self.ids(), -1))
        if len(gone):
            raise MemoryStoreError(f"{self.path} has no row {gone[0]} (deleted?): search it again")

    def search(
        self,
        queries: Any,
        *,
        by: Modality = "image",
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[Any] | None = None,
        hidden: Any = None,
    ) -> Hits:
        """The k nearest rows by image or text embedding for each query (n, d), by cosine, best first.

        where: SQL predicate that rows must meet. exclude: for each query the row ids that it must not get; hidden:
        those that none gets, however many. k places are always filled when that many rows match. Raises
        MemoryStoreError for a predicate, shape or k that can't be used.
        """
        if k < 1:
            raise MemoryStoreError(f"k is {k}: ask for at least one neighbour")
        vectors = as_queries(queries, self.dim)
        banned = None
        if exclude is not None:
            if len(exclude) != len(vectors):
                raise MemoryStoreError(
                    f"exclude has {len(exclude)} lists for {len(vectors)} queries: give one for each"
                )
            banned = [np.asarray(row, np.int64) for row in exclude]
        keys = self._searchable(by)
        return search_keys(
            vectors,
            keys,
            k,
            opened=self._opened.get(by),
            allowed=None if where is None else self.matching(where),
            exclude=banned,
            hidden=None if hidden is None else np.asarray(hidden, np.int64),
        )

    def _searchable(self, of: str) -> Keys:
        if of not in ("image", "text"):
            raise MemoryStoreError(f"a memory is searched by image or by text, not by {of!r}")
        if of not in self._keys:
            opened = self._indexes.open(of, self.version)
            self._keys[of] = open_keys(self._store, of, self.ids(), opened)
            self._opened[of] = opened
        return self._keys[of]
