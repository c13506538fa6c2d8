"""Importing embedding folders: slices become commits, prepared while the one before is written."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory.embedded import Embedded, check_alignment, embedded_rows
from retroclip.memory.keys import KeySet, key_hashes
from retroclip.memory.known import FormerKeys
from retroclip.pairs import EmbeddingFolder, Predicate, Rejected, is_embedding_folder, open_embeddings, parse_where


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a run of consecutive rows of the sources adds in one commit.

    read: how many they were; rejected: what was left out, and captions that were; bad: how many rows were; duplicates:
    rows whose key was there.
    """

    table: pa.Table
    rejected: list[Rejected]
    read: int
    bad: int
    duplicates: int


def embedding_folders(sources: Any) -> list[EmbeddingFolder]:
    """The sources, if all of them are embedding folders; none, if none is.

    Raises SourceError for a mixture, or for a folder whose files don't belong together.
    """
    named = [sources] if isinstance(sources, (str, Path)) else sources
    if not isinstance(named, (list, tuple)):
        return []
    found = [isinstance(source, (str, Path)) and is_embedding_folder(Path(source)) for source in named]
    if not any(found):
        return []
    if not all(found):
        raise SourceError(f"{named[found.index(True)]} holds embeddings: give it alone, and add the others afterwards")
    return [open_embeddings(Path(source)) for source in named]


@dataclass(frozen=True, slots=True)
class EmbeddingImport:
    """The rows of embedding folders, those that `where` holds for by their metadata."""

    folders: list[EmbeddingFolder]
    where: str | None = None

    @property
    def rows(self) -> int:
        """How many they are before `where`."""
        return sum(folder.rows for folder in self.folders)

    def check(self, encoder: Any) -> None:
        """Raise MemoryStoreError for another dimension than the encoder's, SourceError for a predicate on no column."""
        for folder in self.folders:
            _check_folder(folder, encoder, self._predicate())

    def _predicate(self) -> Predicate | None:
        return parse_where(self.where) if self.where is not None and self.where.strip() else None

    def chunks(
        self, encoder: Any, committed: KeySet, former: FormerKeys, *, check: bool, resume: bool
    ) -> Iterator[Chunk]:
        """The rows slice by slice, each key once.

        committed: keys that were there before; with `resume` their rows count as done by the interrupted run, else as
        duplicates. former: what rows that are there were called before. check: compare some text embeddings of each
        slice with the encoder's. Raises MemoryStoreError for embeddings of another model.
        """
        predicate = self._predicate()
        seen = KeySet()
        for folder in self.folders:
            for piece in folder.slices():
                chosen = piece.where(predicate) if predicate else piece
                rows = former.kept(embedded_rows(chosen, folder.name))
                if check:
                    check_alignment(rows, encoder, folder.path, piece.part)
                yield _chunk(rows, seen, committed, resume)


def _check_folder(folder: EmbeddingFolder, encoder: Any, predicate: Predicate | None) -> None:
    if folder.dim != encoder.dim:
        raise MemoryStoreError(
            f"{folder.path} has embeddings of dimension {folder.dim}, {encoder.name} has {encoder.dim}: "
            "name the model that made them"
        )
    unknown = sorted(predicate.columns - set(folder.columns)) if predicate else []
    if unknown:
        told = ", ".join(folder.columns) or "none"
        raise SourceError(f"where: the metadata of {folder.path} has no column {unknown[0]!r}; it has: {told}")


def _chunk(rows: Embedded, seen: KeySet, committed: KeySet, resume: bool) -> Chunk:
    hashes = key_hashes(rows.table["key"].to_pylist())
    first = np.zeros(len(hashes), bool)
    first[np.unique(hashes, return_index=True)[1]] = True
    first &= ~seen.contains(hashes)
    there = committed.contains(hashes)
    seen.add(hashes[first])
    new = first & ~there
    duplicates = int((~first).sum() if resume else (~new).sum())
    table = rows.table if new.all() else rows.table.filter(pa.array(new))
    return Chunk(table, rows.rejected, rows.read, len(rows.rejected), duplicates)


def write_behind(chunks: Iterator[Chunk], write: Callable[[Chunk], None]) -> Iterator[Chunk]:
    """The chunks, each once it is written; the next one is prepared meanwhile, so that two are held at a time."""
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        writing: Future[None] | None = None
        before: Chunk | None = None
        for chunk in chunks:
            if writing is not None and before is not None:
                writing.result()
                yield before
            writing, before = pool.submit(write, chunk), chunk
        if writing is not None and before is not None:
            writing.result()
            yield before
