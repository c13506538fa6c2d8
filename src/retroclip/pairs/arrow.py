"""Lance tables, and folders that Hugging Face datasets saved: rows with the columns of a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.parquet import BATCH_ROWS, check_image, class_names, pair_of_row
from retroclip.pairs.readers import check_columns, no_such_split, register_reader
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

_BROKEN = (pa.ArrowException, OSError, ValueError, RuntimeError)


@register_reader
class LanceReader:
    """A Lance table with the columns that `ParquetReader` knows; `image` must be there."""

    kind = "lance"

    def accepts(self, path: Path) -> bool:
        return path.is_dir() and (path / "_versions").is_dir()

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        table = _lance(ref)
        check_image(ref, table.schema)
        check_columns(ref, where, table.schema.names)
        if ref.split is not None and "split" not in table.schema.names:
            raise SourceError(f"{ref.path} has no column 'split'; leave out '#{ref.split}', or choose rows with where")
        # Embeddings in the table are not read: a memory makes its own.
        names = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
        return _pairs(ref, table.to_batches(columns=names, batch_size=BATCH_ROWS), table.schema, where, ref.split)

    def count(self, ref: SourceRef) -> int | None:
        return None if ref.split is not None else int(_lance(ref).count_rows())


@register_reader
class SavedDatasetReader:
    """What `save_to_disk` of Hugging Face datasets wrote; `#split` names one of a DatasetDict."""

    kind = "huggingface"

    def accepts(self, path: Path) -> bool:
        return path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists())

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        files = _arrow_files(ref)
        schema = _stream(files[0]).schema
        check_image(ref, schema)
        check_columns(ref, where, schema.names)
        return _pairs(ref, (batch for file in files for batch in _small(_stream(file))), schema, where, None)

    def count(self, ref: SourceRef) -> int | None:
        return None


def dataset_pairs(dataset: Any, where: Predicate | None = None) -> Iterator[Pair | Rejected]:
    """The rows of a `datasets.Dataset` or `IterableDataset`, images undecoded; the package itself isn't needed here.

    Images of which the rows hold only paths, as those of an `imagefolder` do, are read from there.

    Raises SourceError when it has no image column.
    """
    name = str(getattr(dataset, "builder_name", None) or "dataset")
    ref = SourceRef(Path(name), None, name)
    schema = dataset.features.arrow_schema
    check_image(ref, schema)
    check_columns(ref, where, schema.names)
    batches = (batch for table in dataset.with_format("arrow").iter(BATCH_ROWS) for batch in table.to_batches())
    return _pairs(ref, batches, schema, where, None, read_paths=True)


def _lance(ref: SourceRef) -> Any:
    import lance

    try:
        return lance.dataset(str(ref.path))
    except _BROKEN as error:
        raise SourceError(f"{ref.path} can't be read as a Lance table: {str(error).splitlines()[0][:200]}") from None


def _arrow_files(ref: SourceRef) -> list[Path]:
    """The files of a saved data set, or of its split, in order; of all splits without one."""
    folders = [ref.path]
    if (ref.path / "dataset_dict.json").exists():
        splits = {path.parent.name: path.parent for path in sorted(ref.path.glob("*/dataset_info.json"))}
        if ref.split is not None and ref.split not in splits:
            raise no_such_split(ref, set(splits))
        folders = [splits[ref.split]] if ref.split is not None else list(splits.values())
    elif ref.split is not None:
        raise SourceError(f"{ref.path} is one data set without splits; leave out '#{ref.split}'")
    files = [file for folder in folders for file in sorted(folder.glob("*.arrow"))]
    if not files:
        raise SourceError(f"{ref.path} has no .arrow file: save the data set again")
    return files


def _stream(file: Path) -> pa.RecordBatchReader:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(file)))
    except _BROKEN as error:
        raise SourceError(f"{file} can't be read as Arrow: {str(error).splitlines()[0][:200]}") from None


def _small(stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    for batch in stream:
        for start in range(0, len(batch), BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _pairs(
    ref: SourceRef,
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    where: Predicate | None,
    split: str | None,
    *,
    read_paths: bool = False,
) -> Iterator[Pair | Rejected]:
    names, number = class_names(schema), 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                if (split is None or str(row["split"]) == split) and (where is None or where(row)):
                    if read_paths:
                        row["image"] = _read(row["image"])
                    yield pair_of_row(ref, row, f"{ref.path.stem}/{number:08d}", names)
                number += 1
    except _BROKEN as error:
        reason = f"the rest can't be read: {str(error).splitlines()[0][:200]}"
        yield Rejected(f"{ref.path.stem}/{number:08d}", ref.name, reason)


def _read(image: Any) -> Any:
    """An image's struct with the bytes of the file that it names, where it holds none and the file can be read."""
    path = image.get("path") if isinstance(image, dict) and not image.get("bytes") else None
    try:
        return {**image, "bytes": Path(path).read_bytes()} if path else image
    except OSError:
        return image
