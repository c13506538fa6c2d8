"""Tidying a store, and removing rows from it so that nothing of them is left in any file."""

from datetime import timedelta
from pathlib import Path

from retroclip.errors import MemoryStoreError
from retroclip.memory.index import IndexFolder
from retroclip.memory.predicate import names_no_column, rows_with
from retroclip.memory.store import Store

KEPT_FOR_READERS = timedelta(days=1)


def compact_store(store: Store, *, alone: bool) -> dict[str, int]:
    """Merge files and drop deleted bytes. alone: nobody reads an old version, so that none need be kept."""
    files, size = store.files(), store.size()
    store.compact(timedelta(0) if alone else KEPT_FOR_READERS)
    return {
        "files_before": files,
        "files": store.files(),
        "bytes_before": size,
        "bytes": store.size(),
        "old_versions_kept": not alone,
    }


def purge_rows(path: Path, store: Store, indexes: IndexFolder, where: str) -> int:
    """Remove rows from the table, its versions, the rejected rows and, by removing all of them, the indexes.

    Everything is done also when no row is left to delete: a purge that was killed is ended by repeating it.
    """
    refuse_copies(path)
    try:
        ids = store.matching(where)
    except MemoryStoreError as error:
        if error.__cause__ is not None and names_no_column(error.__cause__):
            store.compact(timedelta(0))  # a purge that was killed may have left no row whose metadata has that name
        raise
    keys = store.take(ids, ["key"])["key"].to_pylist() if len(ids) else []
    store.rejected()  # damage there is told while the indexes are whole
    indexes.replace({})
    store.forget_rejected(keys, where)  # before the rows: their keys couldn't be told afterwards
    count = store.delete(rows_with(ids)) if len(ids) else 0
    store.compact(timedelta(0))
    return count


def refuse_copies(path: Path) -> None:
    """Raise MemoryStoreError where a migration has left another copy of the memory at `path`."""
    for name in (".old", ".migrated", ".migrated.partial"):
        copy = path.with_name(path.name + name)
        if copy.exists():
            raise MemoryStoreError(f"{copy} holds the rows, too: delete it first, nothing was purged")
