"""Lance's tables: opened, and read within bounded RAM; what is damaged is told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lance

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import is_full_disk
from retroclip.memory.location import Location, Url
from retroclip.memory.predicate import without_noise

READ_BYTES = 32 * 2**20
MOST_ROWS = 8192  # what Lance reads at a time: of photos as cameras leave them, gigabytes


@contextmanager
def damage_told(directory: Location) -> Iterator[None]:
    """Turn a file that Lance can't read inside the block into one line; anything else passes."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if "LanceError(IO)" not in str(error) or is_full_disk(error):
            raise
        raise MemoryStoreError(
            f"{directory} has a file that can't be read ({without_noise(error)}), see `retroclip memory verify`: "
            "restore it from a copy, or create the memory again"
        ) from error


def opened_table(path: Location) -> Any:
    try:
        return lance.dataset(str(path))
    except (ValueError, OSError) as error:
        reason = without_noise(error)
        raise MemoryStoreError(f"{path} can't be read ({reason}): restore it or create the memory again") from error


def has_version(path: Location) -> bool:
    if isinstance(path, Url):
        return any(name.endswith(".manifest") for name in (path / "_versions").names())
    return any((path / "_versions").glob("*.manifest"))


def rows_at_a_time(dataset: Any) -> int:
    """How many whole rows are about `READ_BYTES`, by the fragment with the largest ones; at most `MOST_ROWS`."""
    most = MOST_ROWS
    for part in dataset.get_fragments():  # photos may follow millions of embeddings without
        size = sum(file.file_size_bytes or 0 for file in part.data_files())
        most = min(most, READ_BYTES * part.physical_rows // max(size, 1))
    return max(1, most)
