"""CSV and TSV files whose rows name image files, relative to the table."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected, clean_captions, clean_label, printable
from retroclip.pairs.parquet import CALLED
from retroclip.pairs.readers import check_columns, no_such_split, register_reader
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

_ALIASES = {
    "image": ("image", "filepath", "path", "file", "filename", "file_name", "image_path"),
    "caption": (*CALLED["caption"], *CALLED["captions"]),
    "label": CALLED["label"],
    "key": ("key",),
    "source": ("source",),
    "license": ("license", "licence"),
}
QUOTED_LINES = 64
"""Lines that a text in quotes may have: a quote that isn't closed by then was none."""

_DELIMITERS = (",", "\t", ";", "|")


@register_reader
class TableReader:
    """Rows of a table with a header: an image column (image, filepath, path, …), caption (or title, text), label, …

    Consecutive rows that name the same image are one pair with several captions. Other columns are metadata.
    """

    kind = "table"

    def accepts(self, path: Path) -> bool:
        return path.suffix.lower() in (".csv", ".tsv")

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        header = [printable(name.strip()) for name in next(_rows(ref.path), [])]
        if not header:
            raise SourceError(f"{ref.path} is empty; its first line must name the columns")
        columns = _columns(ref, header)
        check_columns(ref, where, header)
        if ref.split is not None and "split" not in header:
            raise SourceError(f"{ref.path} has no column 'split'; leave out '#{ref.split}', or choose rows with where")
        return _read(ref, header, columns, where)

    def count(self, ref: SourceRef) -> int | None:
        rows = _rows(ref.path)
        header = [name.strip() for name in next(rows, [])]
        at = header.index("split") if ref.split is not None and "split" in header else None
        return sum(1 for row in rows if at is None or row[at : at + 1] == [ref.split])


def _rows(path: Path) -> Iterator[list[str]]:
    """Rows of a table; the delimiter is the one that the header uses most. Bytes that aren't UTF-8 are surrogates."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            first = lines.readline()
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
            for row in _records(chain([first], lines), delimiter):
                if any(cell.strip() for cell in row):
                    yield row
    except (OSError, csv.Error) as error:
        raise SourceError(f"{path} can't be read as a table: {error}") from None


def _records(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Rows of cells. A text in quotes may hold delimiters and line breaks; a quote that ends none is a character."""
    ahead: deque[str] = deque()
    while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
        taken, row, is_open = [line], *_parsed([line], delimiter)
        while is_open and len(taken) < QUOTED_LINES:
            more = ahead.popleft() if ahead else next(lines, None)
            if more is None:
                break
            taken.append(more)
            row, is_open = _parsed(taken, delimiter)
        if row is None:
            ahead.extendleft(reversed(taken[1:]))
            row = next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE))
        yield row


def _parsed(lines: list[str], delimiter: str) -> tuple[list[str] | None, bool]:
    """The one row that the lines are, or None; and whether a quote is still open at their end."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)), False
    except csv.Error as error:
        return None, "unexpected end of data" in str(error)


def _columns(ref: SourceRef, header: list[str]) -> dict[str, str]:
    """Field → the header's name for it, in whatever case ("TEXT")."""
    by_name = {name.casefold(): name for name in reversed(header)} | {name: name for name in header}
    found = {
        name: next((by_name[alias] for alias in aliases if alias in by_name), None)
        for name, aliases in _ALIASES.items()
    }
    if found["image"] is None:
        wanted = ", ".join(_ALIASES["image"])
        raise SourceError(f"{ref.path} has no image column ({wanted}); it has: {', '.join(header)}")
    return {name: column for name, column in found.items() if column is not None}


def _read(
    ref: SourceRef, header: list[str], columns: dict[str, str], where: Predicate | None
) -> Iterator[Pair | Rejected]:
    rows = _rows(ref.path)
    next(rows)
    splits: set[str] = set()
    group: list[dict[str, Any]] = []
    for cells in rows:
        row: dict[str, Any] = {
            name: cell if cell.strip() else None
            for name, cell in zip_longest(header, cells[: len(header)], fillvalue="")
        }
        splits.add(str(row.get("split")))
        if (ref.split is not None and row.get("split") != ref.split) or (where is not None and not where(row)):
            continue
        if group and group[0][columns["image"]] != row[columns["image"]]:
            yield _pair(ref, group, columns)
            group = []
        if any(cell.strip() for cell in cells[len(header) :]):
            reason = f"the row has {len(cells)} cells, the header {len(header)}: texts with a delimiter stand in quotes"
            yield Rejected(_key(row, columns), ref.name, reason)
        else:
            group.append(row)
    if group:
        yield _pair(ref, group, columns)
    if ref.split is not None and ref.split not in splits:
        raise no_such_split(ref, splits)


def _pair(ref: SourceRef, rows: list[dict[str, Any]], columns: dict[str, str]) -> Pair | Rejected:
    row = rows[0]
    name = row[columns["image"]]
    key = _key(row, columns)
    if name is None:
        return Rejected(key, ref.name, "the row names no image")
    if "://" in name:
        return Rejected(key, ref.name, "the image is a web address; download it first")
    path = ref.path.parent / name
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        return Rejected(key, ref.name, f"can't read {printable(name)}: {getattr(error, 'strerror', None) or error}")
    if not data:
        return Rejected(key, ref.name, "empty image file (0 bytes)")
    texts = [text for r in rows if (text := _cell(r, columns, "caption")) is not None]
    captions = clean_captions(text for text in texts if printable(text) == text)
    others = ((name, value) for name, value in row.items() if name not in columns.values() and value is not None)
    metadata = {name: printable(value) for name, value in others}
    if "caption" in columns and not texts:
        metadata["note"] = "caption is empty"
    told = {field: printable(_cell(row, columns, field) or "") for field in ("label", "source", "license")}
    return Pair(
        key=key,
        image=data,
        captions=captions,
        label=clean_label(told["label"]),
        source=told["source"] or ref.name,
        license=clean_label(told["license"]),
        metadata=metadata,
        faults=("a caption is not UTF-8",) if any(printable(text) != text for text in texts) else (),
    )


def _key(row: dict[str, Any], columns: dict[str, str]) -> str:
    """The pair's name: its key, else that of the image."""
    key, name = (_cell(row, columns, field) for field in ("key", "image"))
    return printable(key or (Path(name).with_suffix("").as_posix() if name else "?"))


def _cell(row: dict[str, Any], columns: dict[str, str], field: str) -> str | None:
    return row[columns[field]] if field in columns else None
