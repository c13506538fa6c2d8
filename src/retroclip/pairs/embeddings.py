"""Embedding folders in clip-retrieval's layout, the form in which LAION's embeddings are published, read in slices.

    img_emb/img_emb_0.npy    text_emb/text_emb_0.npy    metadata/metadata_0.parquet    and so on: 1, 2, …

Rows of the three files of a part belong together. Texts and metadata may be missing as a whole, not for single parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retroclip.errors import SourceError
from retroclip.pairs.where import Predicate

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
SLICE_ROWS = 65_536
"""Rows read at once: 64 MB for 512 dimensions in fp16."""


@dataclass(frozen=True, slots=True)
class EmbeddingSlice:
    """Rows of one part: embeddings (n, d) as stored, no texts without `text_emb`, and their metadata.

    `part` is the part's number, `places` (n,) are the rows' places in it.
    """

    part: int
    places: np.ndarray
    images: np.ndarray
    texts: np.ndarray | None
    metadata: pa.Table | None

    def where(self, predicate: Predicate) -> EmbeddingSlice:
        """The rows whose metadata the predicate holds for."""
        if self.metadata is None:
            return self
        rows = self.metadata.select(sorted(predicate.columns)).to_pylist()
        keep = np.array([predicate(row) for row in rows], bool)
        texts = None if self.texts is None else self.texts[keep]
        return EmbeddingSlice(
            self.part, self.places[keep], self.images[keep], texts, self.metadata.filter(pa.array(keep))
        )


@dataclass(frozen=True, slots=True)
class Part:
    """The files of one number: all have `rows` rows."""

    number: int
    rows: int
    images: Path
    texts: Path | None
    metadata: Path | None

    def slices(self, size: int = SLICE_ROWS) -> Iterator[EmbeddingSlice]:
        """All rows in order, `size` at a time; a part that was cut to its first rows ends with these."""
        tables = _tables(self.metadata, size) if self.metadata else None
        for first in range(0, self.rows, size):
            count = min(size, self.rows - first)
            yield EmbeddingSlice(
                self.number,
                np.arange(first, first + count),
                _matrix(self.images, first, count),
                _matrix(self.texts, first, count) if self.texts else None,
                next(tables).slice(0, count) if tables else None,
            )


@dataclass(frozen=True, slots=True)
class EmbeddingFolder:
    """A checked folder: every part is whole, and all embeddings have the dimension `dim`."""

    path: Path
    dim: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The folder's own name, that of the working directory for "."."""
        return os.path.basename(os.path.abspath(self.path))

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def slices(self) -> Iterator[EmbeddingSlice]:
        """All rows in order, some of one part at a time."""
        for part in self.parts:
            yield from part.slices()

    @property
    def columns(self) -> list[str]:
        """Columns of the metadata; none without metadata."""
        first = self.parts[0].metadata
        return list(pq.read_schema(first).names) if first else []


def is_embedding_folder(path: Path) -> bool:
    """Whether a folder has clip-retrieval's layout."""
    return (path / IMAGES).is_dir() or (path / TEXTS).is_dir()


def open_embeddings(path: Path) -> EmbeddingFolder:
    """Find the parts and compare the row counts of their files; only headers are read.

    Raises SourceError, naming the part, for a missing or unreadable file, another dimension, or row counts that differ.
    """
    images = _numbered(path / IMAGES, "npy")
    if not images:
        raise SourceError(
            f"{path} has no {IMAGES}/{IMAGES}_N.npy: embeddings of images are needed, with or without texts"
        )
    others = {TEXTS: _numbered(path / TEXTS, "npy"), METADATA: _numbered(path / METADATA, "parquet")}
    for name, files in others.items():
        odd = sorted(images.keys() ^ files.keys()) if files else []
        if odd:
            missing = name if odd[0] in images else IMAGES
            raise SourceError(f"{path}: part {odd[0]} has no file in {missing}: get it, or take the part away")
    parts: list[Part] = []
    dims: dict[Path, int] = {}
    for number in sorted(images):
        part = _part(path, number, images[number], others[TEXTS].get(number), others[METADATA].get(number), dims)
        parts.append(part)
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{file.name} has {dim}" for file, dim in _first_of_each(dims).items())
        raise SourceError(f"{path}: the embeddings differ in dimension: {told}")
    return EmbeddingFolder(path, next(iter(dims.values())), tuple(parts))


def _part(
    path: Path, number: int, images: Path, texts: Path | None, metadata: Path | None, dims: dict[Path, int]
) -> Part:
    counts = {}
    for name, file in ((IMAGES, images), (TEXTS, texts)):
        if file is not None:
            counts[name], dims[file] = _header(file)[0]
    if metadata is not None:
        counts[METADATA] = _parquet_rows(metadata)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise SourceError(
            f"{path}: the files of part {number} have different numbers of rows ({told}), so rows would not belong "
            "together: get the part again, or take it away"
        )
    return Part(number, counts[IMAGES], images, texts, metadata)


def _first_of_each(dims: dict[Path, int]) -> dict[Path, int]:
    first = {dim: file for file, dim in reversed(dims.items())}
    return {file: dim for dim, file in first.items()}


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    """`img_emb_007.npy` → {7: path}, by number. Raises SourceError where two files have the same."""
    pattern = re.compile(rf"(?:.*_)?(\d+)\.{suffix}")
    found: dict[int, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(file.name)
        if match:
            other = found.setdefault(int(match[1]), file)
            if other is not file:
                raise SourceError(
                    f"{folder}: {other.name} and {file.name} are both part {int(match[1])}: take one away, or give "
                    "each download a folder of its own"
                )
    return found


def _header(file: Path) -> tuple[tuple[int, int], np.dtype, int]:
    """Shape, type and offset of a .npy file's values. Raises SourceError when it isn't a whole matrix of floats."""
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            offset = stream.tell()
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} can't be read as a .npy file: {error}") from None
    if len(shape) != 2 or fortran or dtype.kind != "f":
        raise SourceError(f"{file} holds {dtype} of shape {shape}: rows of floats (n, d) are needed")
    expected = offset + shape[0] * shape[1] * dtype.itemsize
    if file.stat().st_size < expected:
        raise SourceError(f"{file} is cut off: {file.stat().st_size:,} of {expected:,} bytes are there; get it again")
    return (shape[0], shape[1]), dtype, offset


def _matrix(file: Path, first: int, count: int) -> np.ndarray:
    """Rows of a .npy file, read and not mapped: mapped pages would count as the process's memory."""
    (_, dim), dtype, offset = _header(file)
    with file.open("rb") as stream:
        stream.seek(offset + first * dim * dtype.itemsize)
        return np.fromfile(stream, dtype, count * dim).reshape(count, dim)


def _parquet_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(file, error) from None


def _no_parquet(file: Path, error: Exception) -> SourceError:
    return SourceError(f"{file} can't be read as parquet: {' '.join(str(error).split())[:200]}; get it again")


def _tables(file: Path, size: int) -> Iterator[pa.Table]:
    """The rows of a parquet file, exactly `size` at a time."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    parquet = pq.ParquetFile(file)
    for batch in _batches(file, parquet, min(size, 16_384)):
        waiting.append(batch)
        rows += len(batch)
        while rows >= size:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, size)
            waiting = table.slice(size).to_batches()
            rows -= size
    if rows:
        yield pa.Table.from_batches(waiting, schema=parquet.schema_arrow)


def _batches(file: Path, parquet: pq.ParquetFile, size: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from parquet.iter_batches(batch_size=size)
    except (pa.ArrowException, OSError) as error:  # its pages may be damaged where its footer is whole
        raise _no_parquet(file, error) from None
