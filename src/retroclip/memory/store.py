"""The rows of a memory on disk: two Lance tables, read as one fixed version, written by atomic commits."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import write_fragments

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import size_on_disk
from retroclip.memory.location import Location, Url
from retroclip.memory.manifest import MANIFEST_NAME
from retroclip.memory.metadata import names_in_metadata, rows_by_metadata
from retroclip.memory.predicate import checked_predicate, names_no_column, predicate_error, rows_with, without_noise
from retroclip.memory.schema import (
    DATA_COLUMNS,
    REJECTED_SCHEMA,
    FloatMatrix,
    HalfMatrix,
    IdArray,
    pair_schema,
    rejected_table,
)
from retroclip.memory.tables import damage_told, has_version, opened_table, panics_caught, rows_at_a_time
from retroclip.pairs import Rejected

PAIRS_NAME = "pairs.lance"
REJECTED_NAME = "rejected.lance"


class Store:
    """The table of pairs and the table of rejected rows in `directory`, as they were at the last `refresh`.

    Row ids are Lance's stable ones: given once, in order of appending, never reused, kept by compaction.
    """

    def __init__(self, directory: Location, dim: int) -> None:
        self.directory = directory
        self.dim = dim
        self._dataset = opened_table(directory / PAIRS_NAME)
        kinds = {field.name: field.type for field in self._dataset.schema}
        there = getattr(kinds.get("image_embedding"), "list_size", dim)
        if there != dim:
            raise MemoryStoreError(
                f"{directory / MANIFEST_NAME} says that embeddings have {dim} numbers (dim), the rows have {there}: "
                "put that number back"
            )

    @classmethod
    def create(cls, directory: Location, dim: int) -> "Store":
        """Open the tables in `directory`, made empty where they are missing."""
        for name, schema in ((PAIRS_NAME, pair_schema(dim)), (REJECTED_NAME, REJECTED_SCHEMA)):
            if not has_version(directory / name):  # a killed writer may have left folders
                # Stable row ids can be chosen only here: later the option is silently ignored.
                lance.write_dataset(
                    schema.empty_table(), str(directory / name), mode="create", enable_stable_row_ids=True
                )
        return cls(directory, dim)

    @property
    def version(self) -> int:
        return int(self._dataset.version)

    @property
    def schema(self) -> pa.Schema:
        return self._dataset.schema

    def refresh(self) -> None:
        """Go to the newest version."""
        self._dataset = opened_table(self.directory / PAIRS_NAME)

    def count(self, where: str | None = None) -> int:
        return len(self.matching(where)) if where is not None else int(self._dataset.count_rows())

    def matching(self, where: str) -> IdArray:
        """Sorted ids of the live rows for which the predicate holds. Raises MemoryStoreError when it is none."""
        return np.sort(self._resolved(where)[1])

    def _resolved(self, where: str) -> tuple[str, IdArray]:
        """The predicate as the table itself takes it, and the ids of the live rows that it holds for.

        One that names values of the metadata, which are no columns of the table, becomes a list of ids.
        """
        predicate = checked_predicate(where)
        try:
            return predicate, _ids(self._scanned([], predicate))
        except (ValueError, OSError, RuntimeError) as error:
            with damage_told(self.directory):
                ids = rows_by_metadata(self._dataset, where) if names_no_column(error) else None
                if ids is None:
                    raise predicate_error(where, error, DATA_COLUMNS, names_in_metadata(self._dataset)) from error
            return rows_with(ids), ids

    def _scanned(self, columns: list[str], predicate: str | None = None) -> pa.Table:
        """Columns of the live rows, and their ids."""
        with damage_told(self.directory):
            return self._dataset.scanner(columns=columns, filter=predicate, with_row_id=True).to_table()

    def keys(self) -> dict[str, int]:
        """The id of every live row by its key."""
        table = self._scanned(["key"])
        return dict(zip(table["key"].to_pylist(), _ids(table).tolist(), strict=True))

    def key_batches(self, where: str | None = None) -> Iterator[tuple[list[str], IdArray]]:
        """Keys and ids of all live rows, or of those that a predicate holds for, some thousands at a time."""
        with damage_told(self.directory):
            for batch in self._dataset.scanner(columns=["key"], filter=where, with_row_id=True).to_batches():
                yield batch["key"].to_pylist(), batch["_rowid"].to_numpy().astype(np.int64)

    def ids_of(self, keys: pa.ChunkedArray) -> IdArray:
        """Ids of the live rows that have one of the keys."""
        table = self._scanned(["key"])
        return _ids(table.filter(pc.is_in(table["key"], keys.combine_chunks())))

    def ids(self) -> IdArray:
        """Sorted ids of all live rows."""
        return np.sort(_ids(self._scanned([])))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all live rows in the order of the table, which after a compaction need not be that of ids."""
        return self._scanned([name])[name]

    def vectors(self, of: str, after: int | None = None) -> tuple[IdArray, FloatMatrix]:
        """Sorted ids (m,) of the rows that have an embedding `of` "image" or "text", and these as float32 (m, d).

        after: only rows with larger ids.
        """
        parts = list(self.vector_batches(of, after))
        ids = np.concatenate([np.zeros(0, np.int64), *(some for some, _ in parts)])
        values = np.concatenate([np.zeros((0, self.dim), np.float32), *(some.astype(np.float32) for _, some in parts)])
        values /= np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-12)
        if len(ids) > 1 and (np.diff(ids) < 0).any():
            order = np.argsort(ids)
            ids, values = ids[order], values[order]
        return ids, values

    def vector_ids(self, of: str, after: int | None = None) -> IdArray:
        """Sorted ids of the rows that have an embedding, of those with ids above `after`."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in self._vectors(of, after, []))]))

    def vector_batches(self, of: str, after: int | None = None) -> Iterator[tuple[IdArray, HalfMatrix]]:
        """Ids and embeddings as they are stored, float16 (m, d), some thousands at a time in the table's order."""
        name = f"{of}_embedding"
        for ids, batch in self._vectors(of, after, [name]):
            values = batch[name].flatten().to_numpy(zero_copy_only=False)
            yield ids, values.reshape(-1, self.dim)

    def _vectors(self, of: str, after: int | None, columns: list[str]) -> Iterator[tuple[IdArray, pa.RecordBatch]]:
        condition = f"{of}_embedding IS NOT NULL" + ("" if after is None else f" AND _rowid > {after}")
        with damage_told(self.directory):
            for batch in self._dataset.scanner(columns=columns, filter=condition, with_row_id=True).to_batches():
                yield batch["_rowid"].to_numpy().astype(np.int64), batch

    def check_finite(self, of: str, ids: IdArray, values: npt.NDArray[np.float32]) -> None:
        """Raise MemoryStoreError, naming one, for rows `ids` whose `values` (m,) show that they aren't finite."""
        bad = ids[~np.isfinite(values)]
        if len(bad):
            key = self.take(bad[:1], ["key"])["key"][0].as_py()
            raise MemoryStoreError(
                f"{len(bad)} {of} embeddings of {self.directory} are not finite, such as that of key {key!r}: "
                "delete those rows with `retroclip memory delete`, and add them again"
            )

    def take(self, ids: IdArray, columns: Sequence[str]) -> pa.Table:
        """The given columns of the given rows, aligned to `ids`, repeats included. Raises MemoryStoreError for an
        unknown column or an id without a live row."""
        unknown = [name for name in columns if name not in self._dataset.schema.names]
        if unknown:
            raise MemoryStoreError(f"no column {', '.join(unknown)}: a memory has {', '.join(DATA_COLUMNS)}")
        wanted, positions = np.unique(ids, return_inverse=True)
        # Lance's public `take` is by position; this one is by id, drops deleted rows, and keeps no promise of order.
        with damage_told(self.directory):
            table = self._dataset._take_rows(wanted.tolist(), columns=[*columns, "_rowid"])
        found = _ids(table)
        if len(found) != len(wanted):
            missing = np.setdiff1d(wanted, found)
            raise MemoryStoreError(f"{self.directory} has no row {missing[0]} (deleted?): search it again")
        return table.select(list(columns)).take(pa.array(np.argsort(found)[positions]))

    def append(self, table: pa.Table) -> None:
        """Add rows in one commit: after a crash all of them are there, or none."""
        lance.write_dataset(table, str(self.directory / PAIRS_NAME), mode="append")
        self.refresh()

    def replace(self, table: pa.Table, ids: IdArray) -> None:
        """Add rows and delete the rows `ids` in one commit; the new rows get new ids."""
        if not len(ids):
            self.append(table)
            return
        with damage_told(self.directory):
            self._commit_replaced(table, rows_with(ids))
        self.refresh()

    def _commit_replaced(self, table: pa.Table, own: str) -> None:
        """`replace` of the rows that the predicate `own` holds for."""
        path = str(self.directory / PAIRS_NAME)
        addresses = self._dataset.scanner(columns=[], filter=own, with_row_address=True).to_table()["_rowaddr"]
        changed: list[Any] = []
        emptied: list[int] = []
        for number in np.unique(addresses.to_numpy() >> 32).tolist():
            left = self._dataset.get_fragment(number).delete(own)
            if left is None:
                emptied.append(number)
            else:
                changed.append(left)
        added = write_fragments(table, path, schema=self._dataset.schema) if len(table) else []
        change = lance.LanceOperation.Update(
            removed_fragment_ids=emptied, updated_fragments=changed, new_fragments=added, fields_modified=[]
        )
        lance.LanceDataset.commit(path, change, read_version=self.version)

    def delete(self, where: str) -> int:
        """Delete the rows for which the predicate holds, in one commit; how many they were."""
        predicate, ids = self._resolved(where)
        if len(ids):
            with damage_told(self.directory):
                self._dataset.delete(predicate)
            self.refresh()
        return len(ids)

    def compact(self, keep: timedelta) -> None:
        """Merge small files and drop the bytes of deleted rows, and of versions older than `keep`; ids stay."""
        for name in (PAIRS_NAME, REJECTED_NAME):
            dataset = opened_table(self.directory / name)
            with damage_told(self.directory):
                dataset.optimize.compact_files(materialize_deletions_threshold=0.0, batch_size=rows_at_a_time(dataset))
            # Unverified files are what a killed writer left: nobody else writes while the caller holds the lock.
            dataset.cleanup_old_versions(older_than=keep, delete_unverified=True)
        self.refresh()

    def rows_at_a_time(self) -> int:
        """How many whole rows, images included, may be held at a time."""
        return rows_at_a_time(self._dataset)

    def files(self) -> int:
        """How many files hold rows."""
        return len(self._dataset.get_fragments())

    def size(self) -> int:
        """Bytes of everything that belongs to the memory; on object storage, of the files that hold rows."""
        if not isinstance(self.directory, Url):
            return size_on_disk(self.directory)
        return sum(file.file_size_bytes or 0 for part in self._dataset.get_fragments() for file in part.data_files())

    def forget_rejected(self, keys: Sequence[str], where: str) -> int:
        """Delete rejected rows that have one of the keys, or that the predicate holds for if it names their columns."""
        dataset = opened_table(self.directory / REJECTED_NAME)
        with damage_told(self.directory):
            table = dataset.scanner(columns=["key"], with_row_id=True).to_table()
        chosen = _ids(table.filter(pc.is_in(table["key"], pa.array(keys, pa.string()))))
        try:
            with damage_told(self.directory):
                found = dataset.scanner(columns=[], filter=checked_predicate(where), with_row_id=True).to_table()
            chosen = np.union1d(chosen, _ids(found))
        except (ValueError, OSError, RuntimeError):
            pass  # it names columns that rejected rows don't have
        if len(chosen):
            dataset.delete(rows_with(chosen))
        return len(chosen)

    def reject(self, rejected: Sequence[Rejected]) -> None:
        if rejected:
            lance.write_dataset(rejected_table(rejected), str(self.directory / REJECTED_NAME), mode="append")

    def rejected(self) -> list[Rejected]:
        with damage_told(self.directory):
            table = opened_table(self.directory / REJECTED_NAME).to_table()
        return [Rejected(**row) for row in table.to_pylist()]

    def problems(self) -> list[str]:
        """What the store's own check finds wrong, one line each."""
        found = []
        for name in (PAIRS_NAME, REJECTED_NAME):
            try:
                with panics_caught():
                    _read_whole(opened_table(self.directory / name))
            except Exception as error:
                found.append(f"{name}: {without_noise(error)}")
        return found


def _read_whole(dataset: Any) -> None:
    dataset.validate()
    for _ in dataset.to_batches(batch_size=rows_at_a_time(dataset)):  # a truncated file passes everything but this
        pass


def _ids(table: pa.Table) -> IdArray:
    return table["_rowid"].to_numpy().astype(np.int64)
