"""Rows written as other tools read them: clip-retrieval's embedding folders, webdataset shards, parquet files."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import full_disk_told
from retroclip.memory.metadata import record_of
from retroclip.memory.progress import Done, steps
from retroclip.memory.schema import DATA_COLUMNS, IdArray
from retroclip.memory.store import Store
from retroclip.pairs import image_suffix

ExportFormat = Literal["clip-retrieval", "webdataset", "parquet"]
PART_ROWS = {"clip-retrieval": 65_536, "webdataset": 10_000, "parquet": 65_536}
EMBEDDINGS = {"img_emb": "image_embedding", "text_emb": "text_embedding"}
_PLAIN_KEY = re.compile(r"(?!row-\d)[\w~-]+(?:/[\w~-]+)*", re.ASCII)  # row-…: what other rows are called


def export_rows(
    store: Store, ids: IdArray, directory: Path, format: ExportFormat, *, images: bool = True, progress: bool = False
) -> int:
    """Write the rows `ids` in their order to `directory`, which appears when it is whole; returns how many.

    Raises MemoryStoreError when it exists, when there is nothing to write, or when images are needed and missing.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise MemoryStoreError(f"{directory} exists already: choose another name")
    if not len(ids):
        raise MemoryStoreError(f"{store.directory} has no row to export")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    size = PART_ROWS[format]
    count = -(-len(ids) // size)
    with (
        full_disk_told(directory, "free some space and try again"),
        steps("exporting", "pairs", len(ids), progress) as done,
    ):
        try:
            partial.mkdir(parents=True)
            for number, first in enumerate(range(0, len(ids), size)):
                name = str(number).zfill(len(str(count - 1)))
                _write_part(store, ids[first : first + size], first, partial, name, format, images, done)
            if directory.exists():
                directory.rmdir()
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return len(ids)


def _write_part(
    store: Store,
    ids: IdArray,
    first: int,
    folder: Path,
    name: str,
    format: ExportFormat,
    images: bool,
    done: Done,
) -> None:
    def tell(rows: int) -> None:
        done(first + rows)

    if format == "clip-retrieval":
        columns = DATA_COLUMNS if images else [column for column in DATA_COLUMNS if column != "image"]
        for kind, column in EMBEDDINGS.items():
            (folder / kind).mkdir(exist_ok=True)
            _write_matrix(store, ids, column, folder / kind / f"{kind}_{name}.npy")
        (folder / "metadata").mkdir(exist_ok=True)
        _write_parquet(store, ids, columns, folder / "metadata" / f"metadata_{name}.parquet", tell, path_column=True)
    elif format == "parquet":
        _write_parquet(store, ids, DATA_COLUMNS, folder / f"pairs-{name}.parquet", tell, needs_images=True)
    else:
        _write_tar(store, ids, first, folder / f"{name.zfill(5)}.tar", tell)


def _batches(store: Store, ids: IdArray, columns: Any, tell: Done, *, needs_images: bool = False) -> Iterator[pa.Table]:
    size = store.rows_at_a_time()
    for start in range(0, len(ids), size):
        table = store.take(ids[start : start + size], columns)
        if needs_images and table["image"].null_count:
            raise MemoryStoreError(
                f"{store.directory} keeps no image of {table['image'].null_count} of the first rows: "
                "export them with --format clip-retrieval"
            )
        yield table
        tell(start + len(table))


def _write_matrix(store: Store, ids: IdArray, column: str, path: Path) -> None:
    """The embeddings as they are stored, fp16; rows of zeros where there is none."""
    dim = store.dim
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(ids), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(ids), 8192):
            array = store.take(ids[start : start + 8192], [column])[column].combine_chunks()
            rows = np.zeros((len(array), dim), np.float16)
            there = array.is_valid().to_numpy(zero_copy_only=False)
            rows[there] = pc.drop_null(array).flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
            file.write(rows.tobytes())


def _write_parquet(
    store: Store,
    ids: IdArray,
    columns: Any,
    path: Path,
    tell: Done,
    *,
    path_column: bool = False,
    needs_images: bool = False,
) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for table in _batches(store, ids, columns, tell, needs_images=needs_images):
            # clip-retrieval's own tools show `image_path`; the key is the path of an image without its suffix.
            whole = table.add_column(0, "image_path", table["key"]) if path_column else table
            writer = writer or pq.ParquetWriter(path, whole.schema)
            writer.write_table(whole)
    finally:
        if writer is not None:
            writer.close()


def _write_tar(store: Store, ids: IdArray, first: int, path: Path, tell: Done) -> None:
    with tarfile.open(path, "w") as tar:
        row = first
        for table in _batches(store, ids, DATA_COLUMNS, tell, needs_images=True):
            for pair in table.to_pylist():
                # A name may hold no dot before its suffix, and nothing that an unpacker would take for a way out.
                stem = pair["key"] if _PLAIN_KEY.fullmatch(pair["key"]) else f"row-{row:09d}"
                for suffix, content in _members(pair):
                    member = tarfile.TarInfo(f"{stem}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                row += 1


def _members(pair: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """An image, its first caption as text, and everything else as JSON."""
    yield image_suffix(pair["image"]), pair["image"]
    caption = pair["caption"]
    if caption and caption == " ".join(caption.split()):
        yield "txt", caption.encode()
    record = {**record_of(pair["metadata"], json.loads), "key": pair["key"], "source": pair["source"]}
    optional = {"captions": pair["captions"] or None, "label": pair["label"], "license": pair["license"]}
    record |= {name: value for name, value in optional.items() if value is not None}
    yield "json", json.dumps(record, ensure_ascii=False).encode()
