"""The memory: a versioned table of pairs with both embeddings, and how to search it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.append import Added, Keeping, Known, ingest
from retroclip.memory.blocklist import Blocklist
from retroclip.memory.build import build_indexes
from retroclip.memory.check import find_problems
from retroclip.memory.create import create_memory, source_items
from retroclip.memory.describe import described
from retroclip.memory.disk import full_disk_told
from retroclip.memory.export import ExportFormat, export_rows
from retroclip.memory.index import IndexFolder, OpenIndex
from retroclip.memory.ingest import Ingest
from retroclip.memory.lock import Reading, writer_lock
from retroclip.memory.maintain import compact_store, purge_rows
from retroclip.memory.manifest import Manifest
from retroclip.memory.migrate import migrate_memory
from retroclip.memory.planner import Plan, parsed_size, planned
from retroclip.memory.progress import reporter
from retroclip.memory.rows import HeldRows
from retroclip.memory.schema import DATA_COLUMNS, IdArray
from retroclip.memory.search import Hits, Keys, as_queries, search_keys
from retroclip.memory.searchable import open_keys
from retroclip.memory.store import Store
from retroclip.pairs import Rejected

Modality = Literal["image", "text"]


class Memory:
    """Image-text pairs with the embeddings of one encoder, searchable by image or by text.

    An object reads one fixed version, also while another process writes; its own writes and `refresh` move it on.
    Rows have stable int64 ids, given in order of adding and never reused. A pair's text embedding is the normalised
    mean of its captions' embeddings; a pair without caption has none and is never found by text.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = Manifest.load(self.path)
        self._store = Store(self.path, self.manifest.dim)
        self._indexes = IndexFolder(self.path)
        self._reading = Reading(self.path)
        self._forget()

    def _forget(self) -> None:
        self._ids: IdArray | None = None
        self._keys: dict[str, Keys] = {}
        self._opened: dict[str, OpenIndex | None] = {}
        self._matching: dict[str, IdArray] = {}

    # ---- making and changing -------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: Any,
        sources: Any,
        *,
        where: str | None = None,
        store_images: bool = True,
        labels_as_captions: bool = False,
        max_rejected: float = 0.1,
        batch_size: int = 64,
        shard_pairs: int = 2048,
        check: bool = True,
        blocklist: Blocklist | None = None,
        index: bool = True,
        on_batch: Callable[[int, int], None] | None = None,
        progress: bool = False,
    ) -> "Memory":
        """Encode all pairs of `sources` into a new memory at `path`, which appears whole.

        sources: paths that `pairs.read_pairs` reads, iterables of Pair, or a mixture; or folders of embeddings that
        `encoder` made before, which are imported. where: predicate for the readers. check: compare some imported text
        embeddings with the encoder's. blocklist: pairs to reject, now and whenever pairs are added. index: build one
        where `index("auto")` would. Bad pairs go to `rejected()`; duplicate keys are skipped and counted. Killed at any
        moment and called again it goes on after the last committed shard of `shard_pairs` pairs. on_batch: called with
        the numbers of pairs read and rejected so far. Raises SourceError when there is nothing, or more than the share
        `max_rejected` of the first shard is bad; MemoryStoreError when `path` is taken or in use, or the disk is full.
        """
        path = Path(path)
        with reporter(sources, progress, on_batch) as report:
            options = Ingest(batch_size, labels_as_captions, shard_pairs, report)
            keeping = Keeping(store_images, max_rejected, check=check, blocklist=blocklist or Blocklist())
            create_memory(path, encoder, sources, where, options=options, keeping=keeping)
        memory = cls(path)
        if index and planned(memory.count(), memory.dim).kind != "exact":
            memory.index("auto")
        return memory

    @classmethod
    def open(cls, path: str | Path) -> "Memory":
        """The memory at `path`. Raises MemoryStoreError where there is none, or one that can't be read."""
        return cls(path)

    def add(
        self,
        sources: Any,
        encoder: Any,
        *,
        where: str | None = None,
        known: Known = "skip",
        check: bool = True,
        blocklist: Blocklist | None = None,
        max_rejected: float = 0.1,
        batch_size: int = 64,
        on_batch: Callable[[int, int], None] | None = None,
        progress: bool = False,
    ) -> Added:
        """Append pairs, found at once; those that are already there are skipped, so a killed run can be repeated.

        A pair is there when key and image agree (key and source where images aren't stored); one whose key belongs to
        another image gets a number after it: `cat~2`. known="replace": it takes the place of the row with its key
        instead, in the same commit. Rows of embedding folders are there when their key is.
        """
        self.check_encoder(encoder)
        creation = self.manifest.creation
        with (
            full_disk_told(self.path, "free some space and run the same command again, it goes on where it stopped"),
            writer_lock(self.path),
            reporter(sources, progress, on_batch) as report,
        ):
            options = Ingest(batch_size, creation["labels_as_captions"], creation["shard_pairs"], report)
            keeping = Keeping(creation["store_images"], max_rejected, known, check, blocklist or Blocklist())
            items = source_items(sources, where, encoder)
            try:
                return ingest(self.path, encoder, items, options, keeping=keeping, resume=False)
            finally:
                self.refresh()

    def delete(self, where: str) -> int:
        """Delete the rows for which the SQL predicate holds; returns how many. They are never found again."""
        with full_disk_told(self.path, "free some space and try again"), writer_lock(self.path):
            self._store.refresh()
            count = self._store.delete(where)
        self.refresh()
        return count

    def compact(self) -> dict[str, int]:
        """Merge small files and free the bytes of deleted rows; returns files and bytes before and after.

        Old versions go, too, unless somebody else has the memory open: then those of the last day stay.
        """
        with full_disk_told(self.path, "free some space and try again"), writer_lock(self.path):
            self._store.refresh()
            with self._reading.alone() as alone:
                told = compact_store(self.path, self._store, alone=alone)
        self.refresh()
        return told

    def purge(self, where: str) -> int:
        """Delete the rows for which the predicate holds and remove their bytes from every file; returns how many.

        Versions, indexes and rejected rows are purged as well; indexes are built anew. Raises MemoryStoreError while
        anybody else has the memory open. Killed at any moment it can be repeated.
        """
        advice = "free some space and run the same command again: rows may be left in old versions"
        with full_disk_told(self.path, advice), writer_lock(self.path), self._reading.alone() as alone:
            if not alone:
                raise MemoryStoreError(f"{self.path} is open elsewhere: close it there, nothing was purged")
            self._store.refresh()
            kind = self.info()["index"]["kind"]
            count = purge_rows(self.path, self._store, self._indexes, where)
        self.refresh()
        if kind != "exact":
            self.index(kind)
        return count

    def block(self, blocklist: Blocklist) -> None:
        """Reject the pairs on a blocklist whenever pairs are added; those that are there stay."""
        with full_disk_told(self.path, "free some space and try again"), writer_lock(self.path):
            (Blocklist.of(self.path) | blocklist).save(self.path)

    def export(
        self, directory: str | Path, format: ExportFormat, *, where: str | None = None, images: bool = True
    ) -> int:
        """Write the rows, in the order of their ids, as a new folder that other tools read; returns how many.

        "clip-retrieval": embeddings, metadata and, with `images`, the stored images; "webdataset": tar shards;
        "parquet": pairs without embeddings. Read back, each gives the same pairs, and the first the same embeddings.
        Raises MemoryStoreError when the directory is taken, or the format needs images that aren't stored.
        """
        ids = self.ids() if where is None else self.matching(where)
        return export_rows(self._store, ids, Path(directory), format, images=images)

    def plan(self, kind: str = "auto", *, ram: int | str | None = None) -> dict[str, Plan]:
        """What `index` would build for each modality that has rows, with expected RAM, disk and time.

        ram: bytes, or text such as "8GB", for all of them together. Raises MemoryStoreError when it is too little.
        """
        budget = parsed_size(ram) if isinstance(ram, str) else ram
        rows = {of: len(self._store.vector_ids(of)) for of in ("image", "text")}
        share = None if budget is None else budget // max(1, sum(count > 0 for count in rows.values()))
        return {of: planned(count, self.dim, kind=kind, ram=share) for of, count in rows.items() if count}

    def index(self, kind: str = "auto", *, recall: float = 0.95, ram: int | str | None = None) -> dict[str, Any]:
        """Bring the indexes of both modalities up to date, or build other ones; returns `info()["index"]`.

        kind: "auto", one of "exact" (no index), "flat", "hnsw", "ivf", "ivfpq", or a FAISS factory string. An index of
        that kind that has most rows is extended. Search parameters are tuned to the wanted recall@10 and stored with
        recall and latency as measured. ram: as for `plan`.
        """
        if not 0 < recall <= 1:
            raise MemoryStoreError(f"recall is {recall}: it is a share, such as 0.95")
        advice = "free some space and try again; the old index is still in use"
        with full_disk_told(self.path, advice), writer_lock(self.path):
            self.refresh()
            plans = self.plan(kind, ram=ram)
            wanted = {of: plan for of, plan in plans.items() if plan.kind != "exact"}
            if wanted:
                build_indexes(self._indexes, self._store, wanted, recall)
            else:
                self._indexes.replace({})
        self.refresh()
        return dict(self.info()["index"])

    def migrate(
        self, encoder: Any, *, batch_size: int = 64, on_batch: Callable[[int, int], None] | None = None
    ) -> Path:
        """Embed all rows anew with another encoder; returns where the old memory is kept, for you to delete.

        The old one answers until the new one takes its place at once; ids are given anew. Killed at any moment it can
        be repeated. Raises MemoryStoreError where no images are stored, or somebody else has it open at the end.
        """
        advice = "free some space and run the same command again; the old memory is still in use"
        with full_disk_told(self.path, advice), writer_lock(self.path):
            self.refresh()
            creation = self.manifest.creation
            options = Ingest(batch_size, creation["labels_as_captions"], creation["shard_pairs"], on_batch)
            old = migrate_memory(self.path, self.manifest, self._store, encoder, options, self._reading)
        self.__init__(self.path)  # type: ignore[misc]
        if planned(self.count(), self.dim).kind != "exact":
            self.index("auto")
        return old

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
        """The reference of the model that made it."""
        return self.manifest.model

    @property
    def version(self) -> int:
        """Number of the store's version that is read."""
        return self._store.version

    def check_encoder(self, encoder: Any) -> None:
        """Raise MemoryStoreError unless `encoder` made this memory: another one's embeddings would match noise."""
        if encoder.fingerprint != self.fingerprint:
            raise MemoryStoreError(
                f"{self.path} was made by model {self.model} ({self.fingerprint[:12]}), not by {encoder.name} "
                f"({encoder.fingerprint[:12]}): load {self.model}, or create a memory with {encoder.name}"
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
    ) -> Hits:
        """The k nearest rows by image or text embedding for each query (n, d), by cosine, best first.

        where: SQL predicate that rows must meet. exclude: for each query the row ids that it must not get. k places are
        always filled when that many rows match. Raises MemoryStoreError for a predicate, shape or k that can't be used.
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
        )

    def _searchable(self, of: str) -> Keys:
        if of not in ("image", "text"):
            raise MemoryStoreError(f"a memory is searched by image or by text, not by {of!r}")
        if of not in self._keys:
            opened = self._indexes.open(of, self.version)
            self._keys[of] = open_keys(self._store, of, self.ids(), opened)
            self._opened[of] = opened
        return self._keys[of]
