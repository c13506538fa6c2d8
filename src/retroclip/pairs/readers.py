"""The one interface behind which every kind of source is read, and the registry of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate


class Reader(Protocol):
    """Reads one kind of source. `open` checks what can be checked at once, so that errors come before any work."""

    kind: str

    def accepts(self, path: Path) -> bool:
        """Whether this path is of this kind, by its name alone (or by being a folder)."""
        ...

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        """Stream the pairs that `where` holds for, in an order that does not change.

        Raises:
            SourceError: nothing to read, columns missing, or no such split.
        """
        ...

    def count(self, ref: SourceRef) -> int | None:
        """How many rows there are (before `where`), or None where only reading all would tell."""
        ...


_READERS: dict[str, Reader] = {}
R = TypeVar("R", bound=type[Any])


def register_reader(reader: R) -> R:
    """Class decorator: one instance of the class reads the sources it accepts."""
    instance = reader()
    _READERS[instance.kind] = instance
    return reader


def reader_for(ref: SourceRef) -> Reader:
    """The reader of a source's kind."""
    for reader in _READERS.values():
        if reader.accepts(ref.path):
            return reader
    raise SourceError(
        f"{ref.path}: not a kind of source that can be read; give a folder, or a .tar, .parquet, .csv or .tsv file"
    )


def row_of(pair: Pair) -> dict[str, Any]:
    """The columns that `where` sees of a pair from a source without columns of its own."""
    return {
        **pair.metadata,
        "key": pair.key,
        "caption": pair.caption,
        "captions": pair.captions,
        "label": pair.label,
        "source": pair.source,
        "license": pair.license,
    }


def no_such_split(ref: SourceRef, existing: set[str]) -> SourceError:
    """The error for a split that isn't there; names those that are."""
    names = ", ".join(sorted(existing)) or "none"
    return SourceError(f"{ref.path} has no split {ref.split!r}; it has: {names}")


def check_columns(ref: SourceRef, where: Predicate | None, columns: list[str]) -> None:
    """Raise when `where` names a column that the source does not have."""
    unknown = sorted((where.columns if where else frozenset()) - set(columns))
    if unknown:
        raise SourceError(f"where: {ref.path} has no column {unknown[0]!r}; it has: {', '.join(columns)}")
