"""The memory: a versioned table of pairs with both embeddings, and what makes and changes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retroclip.errors import MemoryStoreError
from retroclip.memory.append import Added, Keeping, Known, ingest
from retroclip.memory.blocklist import Blocklist
from retroclip.memory.build import build_indexes
from retroclip.memory.create import create_memory, source_items
from retroclip.memory.describe import kind_of
from retroclip.memory.disk import full_disk_told
from retroclip.memory.export import ExportFormat, export_rows
from retroclip.memory.ingest import Ingest
from retroclip.memory.location import Url, local, located
from retroclip.memory.lock import writer_lock
from retroclip.memory.maintain import compact_store, purge_rows, refuse_copies
from retroclip.memory.migrate import estimated_migration, migrate_memory
from retroclip.memory.opened import OpenMemory
from retroclip.memory.pictures import Images
from retroclip.memory.planner import Plan, parsed_size, planned
from retroclip.memory.progress import expected_pairs, reporter


class Memory(OpenMemory):
    """Image-text pairs with the embeddings of one encoder, searchable by image or by text.

    An object reads one fixed version, also while another process writes; its own writes and `refresh` move it on.
    Rows have stable int64 ids, given in order of adding and never reused. A pair's text embedding is the normalised
    mean of its captions' embeddings; a pair without caption has none and is never found by text.

    >>> memory = Memory.create("mem", encoder, ["photos/"])
    >>> hits = memory.search(encoder.encode_texts(["a red bus"]), by="text", k=3)
    >>> len(memory), memory.take(hits.ids[0], ["key", "captions"]).num_rows
    (20, 3)
    """

    @classmethod
    def create(
        cls,
        path: str | Path | Url,
        encoder: Any,
        sources: Any,
        *,
        where: str | None = None,
        images: Images = "store",
        labels_as_captions: bool = False,
        max_rejected: float = 0.1,
        batch_size: int = 64,
        shard_pairs: int = 2048,
        ray: str | None = None,
        workers: int | None = None,
        check: bool = True,
        blocklist: Blocklist | None = None,
        index: bool = True,
        on_batch: Callable[[int, int], None] | None = None,
        progress: bool = False,
    ) -> "Memory":
        """Encode all pairs of `sources` into a new memory at `path`, which appears whole.

        sources: paths that `pairs.read_pairs` reads, iterables of Pair, or a mixture; or folders of embeddings that
        `encoder` made before, which are imported. where: predicate for the readers. check: compare some imported text
        embeddings with the encoder's. images: "store" keeps their bytes, "thumbnail" JPEGs of at most 320 pixels a
        side, "none" nothing (customization and `migrate` need one of the others). blocklist: pairs to reject, now and
        whenever pairs are added. index: build one where `index("auto")` would. Bad pairs go to `rejected()`; duplicate
        keys are skipped and counted. Killed at any moment and called again it goes on after the last committed shard of
        `shard_pairs` pairs. ray: let `workers` processes of the Ray at that address encode ("auto", "host:6379";
        "local" starts one here); the rows are the same, and written by this process. on_batch: called with the numbers
        of pairs read and rejected so far. Raises SourceError when there is nothing, or more than the share
        `max_rejected` of the first shard is bad; MemoryStoreError when `path` is taken or in use, or the disk is full.
        """
        path = located(path)
        with reporter(lambda: expected_pairs(sources, where), progress, on_batch) as report:
            options = Ingest(batch_size, labels_as_captions, shard_pairs, images, report, ray, workers)
            keeping = Keeping(max_rejected, check=check, blocklist=blocklist or Blocklist())
            create_memory(path, encoder, sources, where, options=options, keeping=keeping)
        memory = cls(path)
        if index and planned(memory.count(), memory.dim).kind != "exact":
            memory.index("auto", progress=progress)
        return memory

    @classmethod
    def open(cls, path: str | Path | Url) -> "Memory":
        """The memory at `path`. Raises MemoryStoreError where there is none, or one that can't be read."""
        return cls(path)

    def add(
        self,
        sources: Any,
        encoder: Any,
        *,
        where: str | None = None,
        known: Known = "skip",
        images: Images | None = None,
        check: bool = True,
        blocklist: Blocklist | None = None,
        max_rejected: float = 0.1,
        batch_size: int = 64,
        ray: str | None = None,
        workers: int | None = None,
        on_batch: Callable[[int, int], None] | None = None,
        progress: bool = False,
    ) -> Added:
        """Append pairs, found at once; those that are already there are skipped, so a killed run can be repeated.

        A pair is there when key and image agree (key and source where images aren't kept); one whose key belongs to
        another image gets a number after it: `cat~2`. known="replace": it takes the place of the row with its key
        instead, in the same commit. Rows of embedding folders are there when their key is. images: as for `create`;
        default: as it was created. ray, workers: as for `create`.
        """
        self.check_encoder(encoder)
        creation = self.manifest.creation
        with (
            full_disk_told(self.path, "free some space and run the same command again, it goes on where it stopped"),
            writer_lock(self.path),
            reporter(lambda: expected_pairs(sources, where), progress, on_batch) as report,
        ):
            labels, shards = creation["labels_as_captions"], creation["shard_pairs"]
            options = Ingest(batch_size, labels, shards, images or creation["images"], report, ray, workers)
            keeping = Keeping(max_rejected, known, check, blocklist or Blocklist())
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

        Old versions go, too, unless somebody else has the memory open: then those of the last day stay
        (`old_versions_kept`), as always on object storage, where nobody can tell.
        """
        with full_disk_told(self.path, "free some space and try again"), writer_lock(self.path):
            self._store.refresh()
            with self._reading.alone() as alone:
                told = compact_store(self._store, alone=alone)
        self.refresh()
        return told

    def purge(self, where: str, *, dry_run: bool = False) -> int:
        """Delete the rows for which the predicate holds and remove their bytes from every file; returns how many.

        Versions, indexes and rejected rows are purged as well; indexes are built anew. Raises MemoryStoreError while
        anybody else has the memory open, or a migration has left a copy. Killed at any moment it can be repeated.
        dry_run: only count them.
        """
        advice = "free some space and run the same command again: rows may be left in old versions"
        path = local(self.path, "purge")
        if dry_run:
            refuse_copies(path)
            return self.count(where)
        with full_disk_told(path, advice), writer_lock(path), self._reading.alone() as alone:
            if not alone:
                raise MemoryStoreError(f"{self.path} is open elsewhere: close it there, nothing was purged")
            self._store.refresh()
            kind = self._kind_to_rebuild()
            count = purge_rows(path, self._store, self._indexes, where)
        self.refresh()
        if kind != "exact":
            self.index(kind)
        return count

    def _kind_to_rebuild(self) -> str:
        """The kind of the present indexes; "auto" where their description is damaged, since a purge replaces it."""
        try:
            return kind_of(self._indexes.entries())
        except MemoryStoreError:
            return "auto"

    def block(self, blocklist: Blocklist) -> None:
        """Reject the pairs on a blocklist whenever pairs are added; those that are there stay."""
        with full_disk_told(self.path, "free some space and try again"), writer_lock(self.path):
            (Blocklist.of(self.path) | blocklist).save(self.path)

    def export(
        self,
        directory: str | Path,
        format: ExportFormat,
        *,
        where: str | None = None,
        images: bool = True,
        progress: bool = False,
    ) -> int:
        """Write the rows, in the order of their ids, as a new folder that other tools read; returns how many.

        "clip-retrieval": embeddings, metadata and, with `images`, the stored images; "webdataset": tar shards;
        "parquet": pairs without embeddings. Read back, each gives the same pairs, and the first the same embeddings.
        Raises MemoryStoreError when the directory is taken, or the format needs images that aren't stored.
        """
        ids = self.ids() if where is None else self.matching(where)
        return export_rows(self._store, ids, Path(directory), format, images=images, progress=progress)

    def plan(self, kind: str = "auto", *, ram: int | str | None = None) -> dict[str, Plan]:
        """What `index` would build for each modality that has rows, with expected RAM, disk and time.

        ram: bytes, or text such as "8GB", for all of them together. Raises MemoryStoreError when it is too little.
        """
        budget = parsed_size(ram) if isinstance(ram, str) else ram
        rows = {of: len(self._store.vector_ids(of)) for of in ("image", "text")}
        share = None if budget is None else budget // max(1, sum(count > 0 for count in rows.values()))
        return {of: planned(count, self.dim, kind=kind, ram=share) for of, count in rows.items() if count}

    def index(
        self, kind: str = "auto", *, recall: float = 0.95, ram: int | str | None = None, progress: bool = False
    ) -> dict[str, Any]:
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
                build_indexes(self._indexes, self._store, wanted, recall, progress)
            else:
                self._indexes.replace({})
        self.refresh()
        return dict(self.info()["index"])

    def migrate(
        self,
        encoder: Any,
        *,
        batch_size: int = 64,
        on_batch: Callable[[int, int], None] | None = None,
        progress: bool = False,
    ) -> Path:
        """Embed all rows anew with another encoder; returns where the old memory is kept, for you to delete.

        The old one answers until the new one takes its place at once; ids are given anew. Killed at any moment it can
        be repeated. Raises MemoryStoreError where no images are stored, or somebody else has it open at the end.
        """
        advice = "free some space and run the same command again; the old memory is still in use"
        path = local(self.path, "migrate")
        with (
            full_disk_told(path, advice),
            writer_lock(path),
            reporter(self.count, progress, on_batch) as report,
        ):
            self.refresh()
            options = self._migrating(batch_size, report)
            old = migrate_memory(path, self.manifest, self._store, encoder, options, self._reading)
        self.__init__(self.path)  # type: ignore[misc]
        if planned(self.count(), self.dim).kind != "exact":
            self.index("auto", progress=progress)
        return old

    def estimate_migration(self, encoder: Any, *, batch_size: int = 64) -> dict[str, Any]:
        """Rows, seconds, disk_bytes, free_bytes and ram_bytes of a `migrate`, from a sample; nothing is written.

        Raises MemoryStoreError where no images are stored, or `encoder` made this memory.
        """
        path = local(self.path, "migrate")
        return estimated_migration(path, self.manifest, self._store, encoder, self._migrating(batch_size, None))

    def _migrating(self, batch_size: int, report: Callable[[int, int], None] | None) -> Ingest:
        """Images are "store": each row as it is, for `add` may have kept it otherwise than the creation says."""
        creation = self.manifest.creation
        return Ingest(batch_size, creation["labels_as_captions"], creation["shard_pairs"], "store", report)
