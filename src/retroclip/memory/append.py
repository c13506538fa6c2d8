"""Appending: what was read and encoded becomes commits, each key once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from retroclip.errors import SourceError
from retroclip.memory.blocklist import REASON, Blocklist
from retroclip.memory.embedded import with_images
from retroclip.memory.imports import Chunk, EmbeddingImport, write_behind
from retroclip.memory.ingest import Ingest, encoded_shards, is_kept
from retroclip.memory.keys import KeySet, key_hashes
from retroclip.memory.known import FormerKeys, KnownRows
from retroclip.memory.location import Location
from retroclip.memory.pictures import Images
from retroclip.memory.schema import pair_table
from retroclip.memory.sources import numbered_on
from retroclip.memory.store import Store
from retroclip.memory.workers import encoded_on_ray
from retroclip.pairs import Pair, Rejected

Known = Literal["skip", "replace"]
Items = Iterable[Pair | Rejected] | EmbeddingImport


@dataclass(frozen=True, slots=True)
class Added:
    """What an ingest did: pairs read, rows added by this run, pairs skipped as duplicates, pairs rejected.

    `replaced` counts the added rows that took the place of one with their key, `captions` the captions that were
    rejected while their image was kept. Neither rejected pairs nor captions count that were in the `rejected` table
    before: these are `known`.
    """

    read: int = 0
    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    replaced: int = 0
    captions: int = 0
    known: int = 0


@dataclass(frozen=True, slots=True)
class Keeping:
    """The share of the first shard that may be bad, and what becomes of known keys.

    check: compare some imported text embeddings with the encoder's. blocklist: pairs to reject; the memory keeps it.
    """

    max_rejected: float = 0.1
    known: Known = "skip"
    check: bool = True
    blocklist: Blocklist = field(default_factory=Blocklist)


def ingest(
    directory: Location, encoder: Any, items: Items, options: Ingest, *, keeping: Keeping, resume: bool
) -> Added:
    """Append pairs, or the rows of embedding folders, to the tables in `directory`, a commit for each run of them.

    The caller holds the lock. resume: the rows that are there come from the same stream. Otherwise one of them makes a
    pair a duplicate if key and content agree, and a pair that shares the key alone gets another one; an imported row is
    a duplicate by its key. With `known` "replace", pairs and rows take the place of those that have their keys.
    """
    store = Store.create(directory, encoder.dim)
    blocklist = Blocklist.of(directory) | keeping.blocklist
    if keeping.blocklist:
        blocklist.save(directory)
    keeping = replace(keeping, blocklist=blocklist)
    writer = _Writer(store, keeping)
    if isinstance(items, EmbeddingImport):
        if options.ray is not None:
            raise SourceError("embeddings are imported without encoding: leave --ray out")
        committed = KeySet()
        for keys, _ in store.key_batches() if keeping.known == "skip" else ():
            committed.add(key_hashes(keys))
        chunks = items.chunks(encoder, committed, FormerKeys(store), check=keeping.check, resume=resume)
        screened = (_screened(chunk, keeping.blocklist, options.images) for chunk in chunks)
        for _ in write_behind(screened, writer.write):
            if options.on_batch:
                options.on_batch(writer.added.read, writer.added.rejected)
    else:
        for chunk in _encoded(items, encoder, options, store, keeping, resume):
            writer.write(chunk)
    if not store.count():
        raise SourceError(f"none of the {writer.added.read} pairs read is usable: {_examples(store.rejected())}")
    return writer.added


def _encoded(
    items: Iterable[Pair | Rejected], encoder: Any, options: Ingest, store: Store, keeping: Keeping, resume: bool
) -> Iterator[Chunk]:
    committed = store.keys() if keeping.known == "skip" else {}
    items = keeping.blocklist.screened(items) if keeping.blocklist else items
    if not resume and keeping.known == "skip":
        known = KnownRows(store, committed, options.labels_as_captions)
        items = numbered_on(known.ahead(items), committed, known.holds)
    if options.ray is not None:
        yield from encoded_on_ray(items, encoder, options, committed=committed, resume=resume)
        return
    for shard in encoded_shards(items, encoder, options, committed=committed, resume=resume):
        yield Chunk(pair_table(shard.rows, encoder.dim), shard.rejected, shard.read, shard.bad, shard.duplicates)


def _screened(chunk: Chunk, blocklist: Blocklist, images: Images) -> Chunk:
    """An imported chunk without the rows that are on the blocklist, and then of its images what is kept."""
    blocked = blocklist.blocked_rows(chunk.table) if blocklist and len(chunk.table) else np.zeros(0, bool)
    if blocked.any():
        named = chunk.table.filter(pa.array(blocked)).select(["key", "source"]).to_pylist()
        rejected = [*chunk.rejected, *(Rejected(**row, reason=REASON) for row in named)]
        left = chunk.table.filter(pa.array(~blocked))
        chunk = replace(chunk, table=left, rejected=rejected, bad=chunk.bad + len(named))
    return replace(chunk, table=with_images(chunk.table, images))


class _Writer:
    """Commits chunks one after the other and counts what they did."""

    def __init__(self, store: Store, keeping: Keeping) -> None:
        self.store, self.keeping = store, keeping
        self.added = Added()
        self._written = set(store.rejected())

    def write(self, chunk: Chunk) -> None:
        if not self.added.read:
            _check_share(chunk, self.keeping.max_rejected)
        # Before the rows: a crash in between repeats the chunk, and finds here what it had already written.
        fresh = [item for item in dict.fromkeys(chunk.rejected) if item not in self._written]
        self.store.reject(fresh)
        self._written.update(fresh)
        captions = sum(map(is_kept, fresh))
        old = np.zeros(0, np.int64)
        if self.keeping.known == "replace" and len(chunk.table):
            old = self.store.ids_of(chunk.table["key"])
        if len(chunk.table):
            self.store.replace(chunk.table, old)
        self.added = Added(
            self.added.read + chunk.read,
            self.added.rows + len(chunk.table),
            self.added.duplicates + chunk.duplicates,
            self.added.rejected + len(fresh) - captions,
            self.added.replaced + len(old),
            self.added.captions + captions,
            self.added.known + len(chunk.rejected) - len(fresh),
        )


def _check_share(chunk: Chunk, max_rejected: float) -> None:
    """Stop a run whose first chunk is mostly bad: usually a wrong folder or column, which 10 hours would not mend."""
    bad = chunk.bad - sum(item.reason == REASON for item in chunk.rejected)
    if chunk.read and bad / chunk.read > max_rejected:
        raise SourceError(
            f"{bad} of the first {chunk.read} pairs are bad, more than the {max_rejected:.0%} allowed: "
            f"{_examples(chunk.rejected)}; mend the source or raise max_rejected"
        )


def _examples(rejected: list[Rejected]) -> str:
    shown = [f"{item.key}: {item.reason}" for item in rejected[:2]]
    return ", ".join(shown) if shown else "nothing was left of them"
