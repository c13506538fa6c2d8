"""CSV and TSV files whose rows name image files, relative to the table."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected, clean_captions, clean_label
from retroclip.pairs.readers import check_columns, no_such_split, register_reader
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

_ALIASES = {
    "image": ("image", "filepath", "path", "file", "filename", "file_name", "image_path"),
    "caption": ("caption", "title", "text", "captions"),
    "label": ("label", "class"),
    "key": ("key",),
    "source": ("source",),
    "license": ("license", "licence"),
}
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
        header = next(_rows(ref.path), None)
        if header is None:
            raise SourceError(f"{ref.path} is empty; its first line must name the columns")
        columns = _columns(ref, header)
        check_columns(ref, where, header)
        if ref.split is not None and "split" not in header:
            raise SourceError(f"{ref.path} has no column 'split'; leave out '#{ref.split}', or choose rows with where")
        return _read(ref, header, columns, where)

    def count(self, ref: SourceRef) -> int | None:
        rows = _rows(ref.path)
        header = next(rows, [])
        at = header.index("split") if ref.split is not None and "split" in header else None
        return sum(1 for row in rows if at is None or row[at : at + 1] == [ref.split])


def _rows(path: Path) -> Iterator[list[str]]:
    """Rows of a table; the delimiter is the one that the header uses most."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            first = lines.readline()
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
            for row in csv.reader(chain([first], lines), delimiter=delimiter):
                if any(cell.strip() for cell in row):
                    yield row
    except (OSError, csv.Error) as error:
        raise SourceError(f"{path} can't be read as a table: {error}") from None


def _columns(ref: SourceRef, header: list[str]) -> dict[str, str]:
    """Field → the header's name for it."""
    found = {name: next((alias for alias in aliases if alias in header), None) for name, aliases in _ALIASES.items()}
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
        row = {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=False)}
        splits.add(str(row.get("split")))
        if (ref.split is not None and row.get("split") != ref.split) or (where is not None and not where(row)):
            continue
        if group and group[0][columns["image"]] != row[columns["image"]]:
            yield _pair(ref, group, columns)
            group = []
        group.append(row)
    if group:
        yield _pair(ref, group, columns)
    if ref.split is not None and ref.split not in splits:
        raise no_such_split(ref, splits)


def _pair(ref: SourceRef, rows: list[dict[str, Any]], columns: dict[str, str]) -> Pair | Rejected:
    row = rows[0]
    values = {name: row.get(column) for name, column in columns.items()}
    name = values["image"]
    if name is None:
        return Rejected(str(values.get("key") or "?"), ref.name, "the row names no image")
    key = str(values.get("key") or Path(name).with_suffix("").as_posix())
    if "://" in name:
        return Rejected(key, ref.name, "the image is a web address; download it first")
    path = ref.path.parent / name
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        return Rejected(key, ref.name, f"can't read {name}: {getattr(error, 'strerror', None) or error}")
    if not data:
        return Rejected(key, ref.name, "empty image file (0 bytes)")
    captions = clean_captions(r.get(columns["caption"]) for r in rows) if "caption" in columns else ()
    metadata = {name: value for name, value in row.items() if name not in columns.values() and value is not None}
    if "caption" in columns and not captions:
        metadata["note"] = "caption is empty"
    return Pair(
        key=key,
        image=data,
        captions=captions,
        label=clean_label(values.get("label")),
        source=str(values.get("source") or ref.name),
        license=clean_label(values.get("license")),
        metadata=metadata,
    )
