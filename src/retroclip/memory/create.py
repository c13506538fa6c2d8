"""Creation: a memory appears whole, and an interrupted one goes on later."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory.append import Items, Keeping, ingest
from retroclip.memory.blocklist import FILE_NAME as BLOCKLIST_NAME
from retroclip.memory.disk import full_disk_told
from retroclip.memory.imports import EmbeddingImport, embedding_folders
from retroclip.memory.ingest import Ingest
from retroclip.memory.lease import FOLDER as LEASES
from retroclip.memory.location import Location, Url
from retroclip.memory.lock import writer_lock
from retroclip.memory.manifest import MANIFEST_NAME, UNFINISHED_NAME, Manifest
from retroclip.memory.sources import describe_sources, read_sources
from retroclip.memory.store import PAIRS_NAME, REJECTED_NAME
from retroclip.pairs import Pair, Rejected


def create_memory(
    path: Location, encoder: Any, sources: Any, where: str | None, *, options: Ingest, keeping: Keeping
) -> None:
    """Build a memory in `path.partial` and rename it to `path` when it is whole.

    On object storage it is built in its place, and its manifest gets its name when the memory is whole.
    Interrupted at any moment and repeated with the same arguments it goes on after the last committed shard and ends
    with the same rows. Raises MemoryStoreError when `path` is taken, another process writes it, the disk is full, or
    the interrupted creation had other arguments; SourceError when the sources hold nothing or too much that is bad.
    """
    _check_free(path)
    partial = path if isinstance(path, Url) else path.with_name(path.name + ".partial")
    items = source_items(sources, where, encoder)
    if not isinstance(items, EmbeddingImport):
        items = _first_pulled(iter(items), sources, where)
    advice = f"free some space and run the same command again; what is done is kept in {partial}"
    with full_disk_told(partial, advice):
        if isinstance(partial, Path):
            partial.mkdir(parents=True, exist_ok=True)
        with writer_lock(partial), _unless_empty(partial):
            if isinstance(path, Url):
                _check_free(path)  # again: whoever held the lease may have made it meanwhile
            creation = {
                "sources": describe_sources(sources),
                "where": where,
                "images": options.images,
                "labels_as_captions": options.labels_as_captions,
                "shard_pairs": options.shard_pairs,
            }
            fresh = Manifest(encoder.name, encoder.fingerprint, encoder.dim, creation)
            fresh.model_reference = getattr(encoder, "loaded_from", None) or encoder.name
            manifest = _started(partial, fresh)
            added = ingest(partial, encoder, items, options, keeping=keeping, resume=True)
            manifest.counts = {"read": added.read, "duplicates": added.duplicates}
            manifest.save(partial)
            if isinstance(partial, Url):
                (partial / UNFINISHED_NAME).unlink()
            else:
                partial.rename(str(path))


def source_items(sources: Any, where: str | None, encoder: Any) -> Items:
    """What the sources hold. Raises SourceError where that is nothing, or embeddings that don't fit the encoder."""
    folders = embedding_folders(sources)
    if not folders:
        return read_sources(sources, where)
    found = EmbeddingImport(folders, where)
    found.check(encoder)
    return found


def _check_free(path: Location) -> None:
    if isinstance(path, Url):
        names = path.names()
        if not names or (UNFINISHED_NAME in names and MANIFEST_NAME not in names):
            return
        if not any(name.partition("/")[0] not in (LEASES, PAIRS_NAME, REJECTED_NAME) for name in names):
            return  # a creation that was killed before or after it was one
    elif not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    hint = f"add to it with `retroclip memory add {path}`" if (path / MANIFEST_NAME).exists() else "delete it"
    raise MemoryStoreError(f"{path} exists already: {hint}, or choose another name")


def _first_pulled(items: Iterator[Pair | Rejected], sources: Any, where: str | None) -> Iterator[Pair | Rejected]:
    """The same stream, once it has shown that it holds something: a wrong path leaves no trace on the disk."""
    first = next(items, None)
    if first is None:
        chosen = f" for where {where!r}" if where else ""
        named = ", ".join(describe_sources(sources)) or "an empty list of sources"
        raise SourceError(f"no images found in {named}{chosen}")

    def chained() -> Iterator[Pair | Rejected]:
        yield first
        yield from items

    return chained()


@contextmanager
def _unless_empty(partial: Location) -> Iterator[None]:
    """Remove what a failed creation left unless rows had been committed: nothing stands in another try's way."""
    try:
        yield
    except BaseException:
        if isinstance(partial, Path):
            if not any((partial / PAIRS_NAME / "data").glob("*")):
                shutil.rmtree(partial, ignore_errors=True)
        elif not (partial / PAIRS_NAME / "data").names():
            for name in (PAIRS_NAME, REJECTED_NAME):
                (partial / name).drop_table()
            for name in (UNFINISHED_NAME, BLOCKLIST_NAME):
                (partial / name).unlink()
        raise


def _started(partial: Location, fresh: Manifest) -> Manifest:
    """The manifest in `partial`: `fresh`, or that of the interrupted creation if it had the same arguments."""
    name = UNFINISHED_NAME if isinstance(partial, Url) else MANIFEST_NAME
    if not (partial / name).exists():
        fresh.save(partial, name)
        return fresh
    old = Manifest.load(partial, name)
    differing = [name for name, value in fresh.creation.items() if old.creation.get(name) != value]
    if old.fingerprint != fresh.fingerprint:
        differing.append(f"model ({old.model} there, {fresh.model} here)")
    if differing:
        raise MemoryStoreError(
            f"{partial} was started with another {', another '.join(differing)}: "
            "repeat the first command to go on with it, or delete it to start anew"
        )
    return old
