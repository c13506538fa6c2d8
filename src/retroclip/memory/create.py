"""Creation and appending: shards of encoded pairs become commits; a creation appears whole or goes on later."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory.disk import full_disk_told
from retroclip.memory.ingest import Ingest, Shard, describe_sources, encoded_shards, numbered_on, read_sources
from retroclip.memory.lock import writer_lock
from retroclip.memory.manifest import MANIFEST_NAME, Manifest
from retroclip.memory.schema import pair_table
from retroclip.memory.store import PAIRS_NAME, Store
from retroclip.pairs import Pair, Rejected


@dataclass(frozen=True, slots=True)
class Added:
    """What an ingest did: pairs read, rows added by this run, pairs skipped as duplicates, pairs rejected."""

    read: int = 0
    rows: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is stored of a pair, and the share of the first shard that may be bad."""

    store_images: bool = True
    max_rejected: float = 0.1


def create_memory(
    path: Path, encoder: Any, sources: Any, where: str | None, *, options: Ingest, keeping: Keeping
) -> None:
    """Build a memory in `path.partial` and rename it to `path` when it is whole.

    Interrupted at any moment and repeated with the same arguments it goes on after the last committed shard and ends
    with the same rows. Raises MemoryStoreError when `path` is taken, another process writes it, the disk is full, or
    the interrupted creation had other arguments; SourceError when the sources hold nothing or too much that is bad.
    """
    _check_free(path)
    partial = path.with_name(path.name + ".partial")
    items = _first_pulled(read_sources(sources, where), sources)
    advice = f"free some space and run the same command again; what is done is kept in {partial}"
    with full_disk_told(partial, advice):
        partial.mkdir(parents=True, exist_ok=True)
        with writer_lock(partial), _unless_empty(partial):
            creation = {
                "sources": describe_sources(sources),
                "where": where,
                "store_images": keeping.store_images,
                "labels_as_captions": options.labels_as_captions,
                "shard_pairs": options.shard_pairs,
            }
            manifest = _started(partial, Manifest(encoder.name, encoder.fingerprint, encoder.dim, creation))
            added = ingest(partial, encoder, items, options, keeping=keeping, resume=True)
            manifest.counts = {"read": added.read, "duplicates": added.duplicates}
            manifest.save(partial)
            partial.rename(path)


def ingest(
    directory: Path,
    encoder: Any,
    items: Iterable[Pair | Rejected],
    options: Ingest,
    *,
    keeping: Keeping,
    resume: bool,
) -> Added:
    """Append the stream's pairs to the tables in `directory`, a commit for each shard. The caller holds the lock.

    resume: the rows that are there come from the same stream. Otherwise one of them makes a pair a duplicate only if
    key and content agree; a pair that shares the key alone gets another one.
    """
    store = Store.create(directory, encoder.dim)
    committed = store.keys()
    if not resume:
        items = numbered_on(items, committed, lambda pair: _holds(store, committed[pair.key], pair))
    written = set(store.rejected())
    added = Added()
    for number, shard in enumerate(encoded_shards(items, encoder, options, committed=committed, resume=resume)):
        if number == 0:
            _check_share(shard, keeping.max_rejected)
        # Before the rows: a crash in between repeats the shard, and finds here what it had already written.
        fresh = [item for item in dict.fromkeys(shard.rejected) if item not in written]
        store.reject(fresh)
        written.update(fresh)
        if shard.rows:
            store.append(pair_table(shard.rows, encoder.dim, store_images=keeping.store_images))
        added = Added(
            added.read + shard.read,
            added.rows + len(shard.rows),
            added.duplicates + shard.duplicates,
            added.rejected + shard.bad,
        )
    if not store.count():
        raise SourceError(f"none of the {added.read} pairs read is usable: {_examples(store.rejected())}")
    return added


def _holds(store: Store, row_id: int, pair: Pair) -> bool:
    """Whether the row is this pair: by its image, or where none was stored by the name of its source."""
    row = store.take(np.array([row_id]), ["image", "source"]).to_pylist()[0]
    return pair.source == row["source"] if row["image"] is None else pair.image == row["image"]


def _check_free(path: Path) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    hint = f"add to it with `retroclip memory add {path}`" if (path / MANIFEST_NAME).exists() else "delete it"
    raise MemoryStoreError(f"{path} exists already: {hint}, or choose another name")


def _check_share(shard: Shard, max_rejected: float) -> None:
    """Stop a run whose first shard is mostly bad: usually a wrong folder or column, which 10 hours would not mend."""
    if shard.read and shard.bad / shard.read > max_rejected:
        raise SourceError(
            f"{shard.bad} of the first {shard.read} pairs are bad, more than the {max_rejected:.0%} allowed: "
            f"{_examples(shard.rejected)}; mend the source or raise max_rejected"
        )


def _examples(rejected: list[Rejected]) -> str:
    shown = [f"{item.key}: {item.reason}" for item in rejected[:2]]
    return ", ".join(shown) if shown else "nothing was left of them"


def _first_pulled(items: Iterator[Pair | Rejected], sources: Any) -> Iterator[Pair | Rejected]:
    """The same stream, once it has shown that it holds something: a wrong path leaves no trace on the disk."""
    first = next(items, None)
    if first is None:
        raise SourceError(f"no images found in {', '.join(describe_sources(sources)) or 'an empty list of sources'}")

    def chained() -> Iterator[Pair | Rejected]:
        yield first
        yield from items

    return chained()


@contextmanager
def _unless_empty(partial: Path) -> Iterator[None]:
    """Remove what a failed creation left unless rows had been committed: nothing stands in another try's way."""
    try:
        yield
    except BaseException:
        if not any((partial / PAIRS_NAME / "data").glob("*")):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _started(partial: Path, fresh: Manifest) -> Manifest:
    """The manifest in `partial`: `fresh`, or that of the interrupted creation if it had the same arguments."""
    if not (partial / MANIFEST_NAME).exists():
        fresh.save(partial)
        return fresh
    old = Manifest.load(partial)
    differing = [name for name, value in fresh.creation.items() if old.creation.get(name) != value]
    if old.fingerprint != fresh.fingerprint:
        differing.append(f"model ({old.model} there, {fresh.model} here)")
    if differing:
        raise MemoryStoreError(
            f"{partial} was started with another {', another '.join(differing)}: "
            "repeat the first command to go on with it, or delete it to start anew"
        )
    return old
