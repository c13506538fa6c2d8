"""Predicates on values of the metadata, which a table keeps as JSON: the grammar of sources, row by row."""

import json
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retroclip.errors import SourceError
from retroclip.memory.schema import IdArray
from retroclip.pairs import parse_where

NAMED_ROWS = 1000  # of which an error tells what their metadata has
_decoded = json.JSONDecoder(parse_constant=lambda name: None).decode  # made once: `json.loads` makes one for each text


def rows_by_metadata(dataset: Any, where: str) -> IdArray | None:
    """Ids (m,) of the live rows for which a predicate holds that also names values of the metadata.

    Columns come first and are named in any case, as where the store reads a predicate; values in the one they have. A
    value that a row doesn't have is unknown, as NULL is. None for a predicate beyond `parse_where`'s grammar, and
    when there are rows, but none with one of the names.
    """
    try:
        predicate = parse_where(where)
    except SourceError:
        return None
    columns = {name.lower(): name for name in [*dataset.schema.names, "_rowid"]}
    own = {name: columns[name.lower()] for name in predicate.columns if name.lower() in columns}
    named = predicate.columns - own.keys()
    read = sorted({*own.values(), "metadata"} - {"_rowid"})
    found, met = [np.zeros(0, np.int64)], set()
    for batch in dataset.scanner(columns=read, with_row_id=True).to_batches():
        records = _records(batch["metadata"], named)
        shown = {name: _comparable(batch[column]) for name, column in own.items()}
        rows = pa.table({**shown, "_rowid": batch["_rowid"]}).to_pylist()
        keep = np.array([predicate({**record, **row}) for record, row in zip(records, rows, strict=True)], bool)
        found.append(batch["_rowid"].to_numpy().astype(np.int64)[keep])
        met |= {name for record in records for name in named if name in record}
    return np.concatenate(found) if met == named or len(found) == 1 else None


def names_in_metadata(dataset: Any) -> list[str]:
    """What the metadata of the first `NAMED_ROWS` rows has values of."""
    texts = dataset.scanner(columns=["metadata"], limit=NAMED_ROWS).to_table()["metadata"].to_pylist()
    return sorted({name for text in texts for name in record_of(text)})


def record_of(text: str | None, decode: Callable[[str], Any] = _decoded) -> dict[str, Any]:
    """The metadata of a row as it is stored; a number that is none, as pandas writes a missing one, is None.

    What is no JSON, as imports once stored it, is a value as for `as_record`. decode: `json.loads` where numbers that
    are none are to stay what they are.
    """
    try:
        return as_record(decode(text or "{}"))
    except ValueError:
        return as_record(text)


def as_record(value: Any) -> dict[str, Any]:
    """A JSON object; what is none is its value `metadata`."""
    return value if isinstance(value, dict) else {} if value is None else {"metadata": value}


def _comparable(column: pa.Array) -> pa.Array:
    """The values of a column; TRUE for embeddings and images: of these a predicate asks no more than are they there."""
    if pa.types.is_fixed_size_list(column.type) or pa.types.is_large_binary(column.type):
        return pc.if_else(column.is_valid(), True, pa.scalar(None, pa.bool_()))
    return column


def _records(texts: pa.Array, named: frozenset[str]) -> list[dict[str, Any]]:
    """The metadata of each row, empty where it can't have one of the names: most of the time goes into parsing."""
    written = (json.dumps(name, ensure_ascii=False) for name in named)
    having = reduce(pc.or_, (pc.match_substring(texts, name) for name in written)).fill_null(False)
    return [record_of(text) if there else {} for text, there in zip(texts.to_pylist(), having.to_pylist(), strict=True)]
