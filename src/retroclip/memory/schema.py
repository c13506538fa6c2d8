"""The columns of a memory's table, and tables and matrices made from each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retroclip.pairs import Pair, Rejected

FloatMatrix = npt.NDArray[np.float32]
HalfMatrix = npt.NDArray[np.float16]
IdArray = npt.NDArray[np.int64]

DATA_COLUMNS = ("key", "image", "caption", "captions", "label", "source", "license", "metadata")
REJECTED_SCHEMA = pa.schema([("key", pa.string()), ("source", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair with its embeddings, float32 unit norm of shape (d,); `text` is None without a caption."""

    pair: Pair
    image: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32] | None


def pair_schema(dim: int) -> pa.Schema:
    """Columns of the pairs table.

    Embeddings are float16. Rounding changes each stored element by at most 2^-11 of itself, so the cosine of a unit
    query with a stored row by at most 2^-11 Σ|q_i x_i| ≤ 2^-11 < 5e-4, in practice about 1e-5: scores are correct to
    1e-3 for half the bytes on disk. Scores are computed in float32.
    """
    vector = pa.list_(pa.float16(), dim)
    return pa.schema(
        [
            ("key", pa.string()),
            ("image", pa.large_binary()),
            ("caption", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("label", pa.string()),
            ("source", pa.string()),
            ("license", pa.string()),
            ("metadata", pa.string()),
            ("image_embedding", vector),
            ("text_embedding", vector),
        ]
    )


def pair_table(rows: Sequence[EncodedPair], dim: int) -> pa.Table:
    """Rows of `pair_schema` in the given order."""
    pairs = [row.pair for row in rows]
    schema = pair_schema(dim)
    columns = [
        [pair.key for pair in pairs],
        [pair.image for pair in pairs],
        [pair.captions[0] if pair.captions else None for pair in pairs],
        [list(pair.captions) for pair in pairs],
        [pair.label for pair in pairs],
        [pair.source for pair in pairs],
        [pair.license for pair in pairs],
        [json.dumps(pair.metadata, ensure_ascii=False, default=str, sort_keys=True) for pair in pairs],
    ]
    arrays: list[pa.Array] = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=False)]
    arrays.append(_vectors([row.image for row in rows], dim))
    arrays.append(_vectors([row.text for row in rows], dim))
    return pa.Table.from_arrays(arrays, schema=schema)


def _vectors(vectors: Sequence[npt.NDArray[np.float32] | None], dim: int) -> pa.FixedSizeListArray:
    empty = np.zeros(dim, np.float32)
    matrix = np.array([empty if v is None else v for v in vectors], np.float32).astype(np.float16)
    mask = pa.array([v is None for v in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dim, mask=mask)


def rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    """The `rejected` rows as a table: what was left out, and why."""
    rows = [{"key": item.key, "source": item.source, "reason": item.reason} for item in rejected]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)
