"""Parquet files of pairs, streamed a batch of rows at a time; also as Hugging Face datasets writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retroclip.errors import SourceError
from retroclip.pairs.annotations import as_list
from retroclip.pairs.pair import Pair, Rejected, clean_captions, clean_label
from retroclip.pairs.readers import check_columns, no_such_split, register_reader
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

BATCH_ROWS = 256
"""Rows decoded at once: with photos of a few hundred kilobytes, some tens of megabytes."""

BOX = ("label", "x", "y", "w", "h")

CALLED = {"captions": ("captions",), "caption": ("caption", "title", "text"), "label": ("label", "class")}
"""What columns of captions and labels are called elsewhere, in any case, the first that is there; in tables, too."""

_PAIR_COLUMNS = frozenset(
    ["key", "image", "caption", "captions", "label", "labels", "source", "license", "boxes", "mask"]
)


@register_reader
class ParquetReader:
    """Rows with the columns key, image, caption, captions, label, labels, split, source, license, boxes, mask.

    Only `image` must be there: bytes, or a struct with `bytes`. Captions may also be called text or title, labels
    class. Any other column goes to the metadata.
    """

    kind = "parquet"

    def accepts(self, path: Path) -> bool:
        return path.suffix.lower() in (".parquet", ".pq")

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        file = _open(ref)
        check_image(ref, file.schema_arrow)
        check_columns(ref, where, file.schema_arrow.names)
        if ref.split is not None:
            _check_split(ref, file)
        return _read(ref, file, where)

    def count(self, ref: SourceRef) -> int | None:
        file = _open(ref)
        if ref.split is None:
            return int(file.metadata.num_rows)
        return _check_split(ref, file)


def _open(ref: SourceRef) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(ref.path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{ref.path} can't be read as parquet: {_one_line(error)}") from None


def check_image(ref: SourceRef, schema: pa.Schema) -> None:
    if "image" not in schema.names:
        raise SourceError(f"{ref.path} has no column 'image'; it has: {', '.join(schema.names)}")
    kind = schema.field("image").type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise SourceError(f"{ref.path}: column 'image' holds {kind}; it must hold the bytes of encoded images")


def _check_split(ref: SourceRef, file: pq.ParquetFile) -> int:
    """Rows of the split; an error names the splits there are."""
    if "split" not in file.schema_arrow.names:
        raise SourceError(f"{ref.path} has no column 'split'; leave out '#{ref.split}', or choose rows with where")
    counts: dict[str, int] = {}
    for batch in file.iter_batches(batch_size=65536, columns=["split"]):
        for entry in pc.value_counts(batch.column(0)).to_pylist():
            counts[str(entry["values"])] = counts.get(str(entry["values"]), 0) + entry["counts"]
    if ref.split not in counts:
        raise no_such_split(ref, set(counts))
    return counts[ref.split]


def _read(ref: SourceRef, file: pq.ParquetFile, where: Predicate | None) -> Iterator[Pair | Rejected]:
    chosen_by = sorted((where.columns if where else frozenset()) | ({"split"} if ref.split is not None else set()))
    first = 0
    for group in range(file.num_row_groups):
        rows = int(file.metadata.row_group(group).num_rows)
        try:
            keep = _chosen(file, group, chosen_by, ref.split, where) if chosen_by else None
            if keep is None or any(keep):
                yield from _read_group(ref, file, group, first, keep)
        except (pa.ArrowException, OSError) as error:
            reason = f"{rows} rows of row group {group} can't be read whole: {_one_line(error)}"
            yield Rejected(f"{ref.path.stem}/{first:08d}", ref.name, reason)
        first += rows


def _chosen(
    file: pq.ParquetFile, group: int, columns: list[str], split: str | None, where: Predicate | None
) -> list[bool]:
    """Which rows of a row group are asked for: known before any image is read."""
    flat = [column for column in columns if column != "image"]
    rows = file.read_row_group(group, columns=flat).to_pylist() if flat else []
    return [(split is None or str(row["split"]) == split) and (where is None or where(row)) for row in rows]


def _read_group(
    ref: SourceRef, file: pq.ParquetFile, group: int, first: int, keep: list[bool] | None
) -> Iterator[Pair | Rejected]:
    names = class_names(file.schema_arrow)
    start = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
        stop = start + batch.num_rows
        numbers = [i for i in range(start, stop) if keep is None or keep[i]]
        rows = batch.take(pa.array([number - start for number in numbers], pa.int64())).to_pylist()
        for number, row in zip(numbers, rows, strict=True):
            yield pair_of_row(ref, row, f"{ref.path.stem}/{first + number:08d}", names)
        start = stop


def pair_of_row(ref: SourceRef, row: dict[str, Any], number: str, names: Sequence[str] | None) -> Pair | Rejected:
    row = _known(row)
    key = str(row["key"]) if row.get("key") not in (None, "") else number
    image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
    source = str(row.get("source") or ref.name)
    if not image:
        path = row["image"].get("path") if isinstance(row["image"], dict) else None
        return Rejected(key, source, f"no image bytes, only the path {path}" if path else "no image bytes")
    captions = as_list(row.get("caption")) + as_list(row.get("captions"))
    cleaned = clean_captions(str(caption) for caption in captions if caption is not None)
    columns = {name: _plain(value) for name, value in row.items() if name not in _PAIR_COLUMNS}
    packed = _unpacked(columns.pop("metadata", None))
    metadata = {name: value for name, value in columns.items() if value is not None} | packed
    if captions and not cleaned:
        metadata["note"] = "caption is empty"
    return Pair(
        key=key,
        image=image,
        captions=cleaned,
        label=_label(row.get("label"), names),
        source=source,
        license=clean_label(row.get("license")),
        boxes=tuple(_box(box) for box in as_list(row.get("boxes"))),
        mask=row["mask"] if isinstance(row.get("mask"), bytes) else None,
        metadata=metadata,
        labels=_labels(row.get("labels"), names),
    )


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the right names for those that are `CALLED` otherwise; a title or text beside captions stays."""
    found, by_name = dict(row), {name.casefold(): name for name in reversed(row)}
    for field, names in CALLED.items():
        name = next((by_name[name] for name in names if name in by_name), field)
        if name in found and field not in found and not (field == "caption" and "captions" in found):
            found[field] = found.pop(name)
    return found


def _box(box: Any) -> Any:
    """(label, x, y, w, h) whatever the order of the fields; anything else stays, for its user to reject."""
    if isinstance(box, dict):
        return tuple(box[name] for name in BOX) if set(BOX) <= set(box) else tuple(box.values())
    return tuple(box) if isinstance(box, list) else box


def _label(value: Any, names: Sequence[str] | None) -> str | None:
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return clean_label(value)


def _labels(values: Any, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """A list column as labels; anything else in a column of that name isn't meant."""
    if not isinstance(values, list):
        return None
    return tuple(label for value in values if (label := _label(value, names)) is not None)


def class_names(schema: pa.Schema) -> list[str] | None:
    """Names behind integer labels, where Hugging Face datasets left them in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]


def _unpacked(metadata: Any) -> dict[str, Any]:
    """The values of a column `metadata` that holds JSON objects, as `memory export` writes it; others stay as found."""
    try:
        found = json.loads(metadata) if isinstance(metadata, str) else metadata
    except ValueError:
        found = metadata
    if isinstance(found, dict):  # of a struct's fields those that another row has are null here
        return found if found is not metadata else {name: value for name, value in found.items() if value is not None}
    return {} if found is None else {"metadata": found}


def _plain(value: Any) -> Any:
    """A value that JSON can hold; bytes are left out."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (bytes, memoryview)):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
