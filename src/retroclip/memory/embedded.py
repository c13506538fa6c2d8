"""Rows from embeddings that another tool computed: columns and matrices become tables, no Python object a row."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.keys import former_key, made_key
from retroclip.memory.metadata import as_record, record_of
from retroclip.memory.pictures import Images, kept_image
from retroclip.memory.schema import pair_schema
from retroclip.pairs import EmbeddingSlice, Rejected

UNIT = 2e-3  # rows this near to unit length are stored to the bit as they are
CHECKED_ROWS = 8
NORM_ROWS = 1024  # fit the cache as float32
ALIGNED = 0.9  # cosine of the same caption's embedding by the same model, with room for another precision
_LICENCES = ("license", "LICENSE", "licence")
_OWN = frozenset(["key", "image", "caption", "captions", "label", "source", "license", "metadata", *_LICENCES])


@dataclass(frozen=True, slots=True)
class Embedded:
    """A slice as rows of `pair_schema`, what was left out of it, and how many rows it had.

    former: what the rows of a slice in which the metadata leave one without a key were called before 2026-11-26, by
    part and place alone; null for those of others.
    """

    table: pa.Table
    rejected: list[Rejected]
    read: int
    former: pa.Array


def embedded_rows(piece: EmbeddingSlice, source: str) -> Embedded:
    """The rows of a slice in order, without those whose embeddings are not finite or have no direction.

    Embeddings (n, d) of any float type become fp16 of unit norm; those that are so already keep their bits. A text
    embedding of zeros, or one whose caption is empty, is no text. source: the folder's name, for rows that name none,
    and in the keys of rows that have none.
    """
    count, dim = piece.images.shape
    table = piece.metadata
    columns = {} if table is None else {name: table[name] for name in table.column_names}
    sources = _texts(columns.get("source"), count).fill_null(source)
    captions = _captions(columns, count)
    vectors, image_fault = _unit_rows(piece.images)
    keys, former = _keys(columns, piece.part, piece.places, source, vectors)
    reasons = np.where(image_fault == "", "", np.char.add("the image embedding ", image_fault))
    text: pa.Array = pa.nulls(count, pa.list_(pa.float16(), dim))
    if piece.texts is not None:
        rows, fault = _unit_rows(piece.texts)
        broken = (fault != "") & (fault != ZERO)
        reasons = np.where((reasons == "") & broken, np.char.add("the text embedding ", fault), reasons)
        without = fault != ""
        if "caption" in columns or "captions" in columns:
            without |= captions[0].is_null().to_numpy(zero_copy_only=False)
        text = _vectors(rows, without)
    arrays = [
        keys,
        _images(columns.get("image"), count),
        *captions,
        _texts(columns.get("label"), count),
        sources,
        _texts(next((columns[name] for name in _LICENCES if name in columns), None), count),
        _metadata(columns, keys, count),
        _vectors(vectors, np.zeros(count, bool)),
        text,
    ]
    whole = pa.Table.from_arrays(arrays, schema=pair_schema(dim))
    bad = np.flatnonzero(reasons != "")
    if not len(bad):
        return Embedded(whole, [], count, former)
    rejected = [Rejected(keys[i].as_py(), sources[i].as_py(), str(reasons[i])) for i in bad.tolist()]
    good = pa.array(reasons == "")
    return Embedded(whole.filter(good), rejected, count, former.filter(good))


def check_alignment(rows: Embedded, encoder: Any, path: Any, part: int) -> None:
    """Compare some text embeddings with what the encoder makes of the captions beside them.

    Raises MemoryStoreError when they aren't alike: another model made them, or rows are shifted. Says nothing where
    there are no texts.
    """
    table = rows.table
    places = np.flatnonzero(table["text_embedding"].combine_chunks().is_valid().to_numpy(zero_copy_only=False))
    places = (
        places[np.unique(np.linspace(0, len(places) - 1, CHECKED_ROWS).astype(np.int64))] if len(places) else places
    )
    chosen = table.select(["captions", "text_embedding"]).take(pa.array(places))
    captions = chosen["captions"].to_pylist()
    if not any(captions):
        return
    stored = torch.tensor([row for row, own in zip(chosen["text_embedding"].to_pylist(), captions, strict=True) if own])
    made = torch.stack([encoder.encode_texts(own).float().cpu().mean(0) for own in captions if own])
    cosine = float(torch.nn.functional.cosine_similarity(stored.float(), made).median())
    if cosine < ALIGNED:
        raise MemoryStoreError(
            f"{path}: the text embeddings of part {part} are not those of {encoder.name} for the captions beside them "
            f"(median cosine {cosine:.2f} over {len(made)} rows): name the model that made them, or get the part again "
            "if its rows are shifted"
        )


NOT_FINITE, ZERO = "is not finite", "is zero"


def _unit_rows(values: np.ndarray) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.str_]]:
    """Rows as fp16 of unit norm, and for each row what is wrong with it ("" if nothing)."""
    norms = np.empty(len(values), np.float32)
    for start in range(0, len(values), NORM_ROWS):
        rows = values[start : start + NORM_ROWS].astype(np.float32)
        norms[start : start + NORM_ROWS] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    finite, some = np.isfinite(norms), norms > 1e-6
    fault = np.where(finite, np.where(some, "", ZERO), NOT_FINITE)
    half = values.astype(np.float16, copy=False)
    off = finite & some & (np.abs(norms - 1) > UNIT)
    if off.any():
        half = half.copy() if half is values else half
        half[off] = values[off].astype(np.float32) / norms[off, None]
    return half, fault


def _vectors(rows: npt.NDArray[np.float16], missing: npt.NDArray[np.bool_]) -> pa.FixedSizeListArray:
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1], mask=mask)


def _texts(column: pa.ChunkedArray | None, count: int) -> pa.Array:
    """A column as trimmed strings, empty ones as null."""
    if column is None:
        return pa.nulls(count, pa.string())
    array = column.combine_chunks()
    if not pa.types.is_string(array.type):
        array = array.cast(pa.string())
    array = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)


def _keys(
    columns: dict[str, pa.ChunkedArray], part: int, places: np.ndarray, folder: str, vectors: npt.NDArray[np.float16]
) -> tuple[pa.Array, pa.Array]:
    """The rows' names, and what they were called before where neither `key` nor `image_path` names all rows, else null.

    A name is `key`, else `image_path`, else the folder, part, place and a hash of the embedding: folders of one name in
    two places hold other embeddings, and the same folder has the same names wherever it lies.
    """
    count, some = len(places), []
    for name in ("key", "image_path"):
        if name in columns:
            some.append(_texts(columns[name], count))
            if not some[-1].null_count:
                return some[-1], pa.nulls(count, pa.string())
    former = [former_key(part, place) for place in places.tolist()]
    made = [made_key(folder, own, vector) for own, vector in zip(former, vectors, strict=True)]
    return pc.coalesce(*some, pa.array(made, pa.string())), pa.array(former, pa.string())


def _captions(columns: dict[str, pa.ChunkedArray], count: int) -> tuple[pa.Array, pa.Array]:
    """The first caption and all of them."""
    kind = pa.list_(pa.string())
    if "captions" in columns and _is_list(columns["captions"].type):
        every = columns["captions"].combine_chunks().cast(kind)
        lengths = pc.fill_null(pc.list_value_length(every), 0)
        filled = pc.if_else(pc.greater(lengths, 0), every, pa.scalar([None], kind))
        return pc.list_element(filled, 0), pc.fill_null(every, pa.scalar([], kind))
    caption = _texts(columns.get("caption"), count)
    present = caption.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
    return caption, pa.ListArray.from_arrays(pa.array(offsets), caption.drop_null())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)  # polars writes the second


def with_images(table: pa.Table, images: Images) -> pa.Table:
    """The rows with of their images what is kept."""
    place = table.schema.get_field_index("image")
    column = table.column(place)
    if images == "store" or column.null_count == len(column):
        return table
    if images == "none":
        kept = pa.nulls(len(column), pa.large_binary())
    else:
        kept = pa.array([kept_image(data.as_py(), images) for data in column], pa.large_binary())
    return table.set_column(place, table.schema.field(place), kept)


def _images(column: pa.ChunkedArray | None, count: int) -> pa.Array:
    """Encoded images: bytes, or the `bytes` of Hugging Face's struct."""
    if column is not None and pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    binary = column is not None and (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))
    if column is None or not binary:
        return pa.nulls(count, pa.large_binary())
    return column.combine_chunks().cast(pa.large_binary())


def _metadata(columns: dict[str, pa.ChunkedArray], keys: pa.Array, count: int) -> pa.Array:
    """Other columns as the JSON of each row, together with what a column `metadata` holds as JSON."""
    others = {name: column.combine_chunks() for name, column in sorted(columns.items()) if name not in _OWN}
    if "image_path" in others and pc.all(pc.equal(others["image_path"], keys)).as_py():
        del others["image_path"]
    if "metadata" in columns:
        texts = columns["metadata"].to_pylist()
        if others:
            named = [json.loads(text) for text in _json_objects(others, count).to_pylist()]
            texts = [_encoded({**_object(text), **own}) for text, own in zip(texts, named, strict=True)]
        return pa.array([_encoded(_object(text)) for text in texts])
    return _json_objects(others, count)


def _json_objects(columns: dict[str, pa.Array], count: int) -> pa.Array:
    """For each row the JSON object of its values that are not null, as `json.dumps` writes it, a column at a time."""
    if not columns:
        return pa.array(["{}"] * count)
    members = [
        pc.binary_join_element_wise(_encoded(name) + ": ", _json_values(column), "", null_handling="emit_null")
        for name, column in columns.items()
    ]
    # "skip" leaves out rows of which all is null, so that none may be: each starts with an empty text and its comma
    joined = pc.binary_join_element_wise("", *members, ", ", null_handling="skip")
    return pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 2), "}", "")


def _json_values(column: pa.Array) -> pa.Array:
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.string())
    if pa.types.is_string(column.type) and not pc.any(pc.match_substring_regex(column, r'[\x00-\x1f"\\]')).as_py():
        return pc.binary_join_element_wise('"', column, '"', "")
    if pa.types.is_floating(column.type):
        numbers = _encoded(column.to_pylist())[1:-1].split(", ")
        return pc.if_else(column.is_valid(), pa.array(numbers), pa.scalar(None, pa.string()))
    return pa.array([None if value is None else _encoded(value) for value in column.to_pylist()], pa.string())


_encoded = json.JSONEncoder(ensure_ascii=False, default=str, sort_keys=True).encode


def _object(value: Any) -> dict[str, Any]:
    return record_of(value, json.loads) if isinstance(value, str) else as_record(value)
