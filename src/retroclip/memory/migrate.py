"""Embedding a memory anew with another encoder, while the old one still answers."""

import ctypes
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retroclip.errors import MemoryStoreError
from retroclip.memory.append import Keeping
from retroclip.memory.blocklist import Blocklist
from retroclip.memory.create import create_memory
from retroclip.memory.estimate import estimated
from retroclip.memory.ingest import Ingest
from retroclip.memory.lock import Reading
from retroclip.memory.manifest import Manifest
from retroclip.memory.metadata import record_of
from retroclip.memory.store import Store
from retroclip.pairs import Pair

NEW, OLD = ".migrated", ".old"
RENAME_EXCHANGE = 2


def migrate_memory(
    path: Path, manifest: Manifest, store: Store, encoder: Any, options: Ingest, reading: Reading
) -> Path:
    """Encode all rows of the memory at `path` with `encoder`, then put the new memory in its place.

    Returns where the old one is kept. Interrupted and repeated it goes on after the last committed shard. Stored
    images stay as they are; thumbnails are embedded as such. Raises MemoryStoreError when a row has no stored image,
    the encoder is the memory's own, the old place is taken, or, at the end, somebody else reads the old memory; also
    when the old one has changed since. The caller holds its lock, so that nothing is added meanwhile.
    """
    new, old = path.with_name(path.name + NEW), path.with_name(path.name + OLD)
    _refuse_old(old)
    if encoder.fingerprint == manifest.fingerprint:
        if not new.exists():
            raise _already(path, encoder)
        new.rename(old)  # killed after the exchange
        return old
    source = _Rows(store, f"<memory {manifest.id}, version {store.version}>")
    if not new.exists():
        _check_images(path, store)
        keeping = Keeping(max_rejected=1.0)
        create_memory(new, encoder, [source], None, options=options, keeping=keeping)
    made = Manifest.load(new)
    if made.fingerprint != encoder.fingerprint:
        raise MemoryStoreError(f"{new} was made by {made.model_reference}: name that model to go on, or delete it")
    if source.description not in (made.creation.get("migrated_from"), *made.creation["sources"]):
        raise MemoryStoreError(f"{new} was made of {path} before that was changed: delete it, and run this again")
    made.creation["migrated_from"] = source.description
    made.creation |= {name: manifest.creation[name] for name in ("sources", "where", "images")}
    made.save(new)
    Blocklist.of(path).save(new)  # not given to the creation: what is there already stays
    with reading.alone() as alone:
        if not alone:
            raise MemoryStoreError(f"{path} is open elsewhere: close it there and repeat the command; {new} is ready")
        exchange(path, new)
    new.rename(old)
    return old


def estimated_migration(path: Path, manifest: Manifest, store: Store, encoder: Any, options: Ingest) -> dict[str, Any]:
    """What `migrate_memory` will take, as `estimated` tells it; nothing is written. Raises what it would at its start.

    The old memory stays: `disk_bytes` come on top of it.
    """
    _refuse_old(path.with_name(path.name + OLD))
    if encoder.fingerprint == manifest.fingerprint:
        raise _already(path, encoder)
    _check_images(path, store)
    source = _Rows(store, str(path))
    return estimated(path, encoder, [source], None, options, Keeping(max_rejected=1.0), pairs=store.count())


def _refuse_old(old: Path) -> None:
    if old.exists():
        raise MemoryStoreError(f"{old} is there from an earlier migration: delete it first, or move it")


def _already(path: Path, encoder: Any) -> MemoryStoreError:
    return MemoryStoreError(f"{path} was made by {encoder.name} already")


class _Rows:
    """The rows of a store as pairs, in the order of their ids."""

    def __init__(self, store: Store, description: str) -> None:
        self.store, self.description = store, description

    def __iter__(self) -> Iterator[Pair]:
        ids, size = self.store.ids(), self.store.rows_at_a_time()
        columns = ["key", "image", "captions", "label", "source", "license", "metadata"]
        for start in range(0, len(ids), size):
            for row in self.store.take(ids[start : start + size], columns).to_pylist():
                row["captions"] = tuple(row["captions"] or ())
                row["metadata"] = record_of(row["metadata"], json.loads)
                yield Pair(**row)


def _check_images(path: Path, store: Store) -> None:
    missing = store.count("image IS NULL")
    if missing:
        raise MemoryStoreError(
            f"{path} keeps no image of {missing} pairs, which another model needs: create a memory from the sources"
        )


def exchange(first: Path, second: Path) -> None:
    """Swap two directories at once: there is no moment at which `first` names nothing."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD: paths are taken from the working directory
    if rename is not None and not rename(here, os.fsencode(first), here, os.fsencode(second), RENAME_EXCHANGE):
        return
    aside = second.with_name(second.name + ".aside")  # another system: two renames, and a moment between them
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
