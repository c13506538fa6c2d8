"""Lance's tables: opened, and read within bounded RAM; what is damaged is told in one line."""

import re
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


_DAMAGE = re.compile(
    r"^(?:[A-Z][\w ]* error: )*(?:LanceError\(IO\)|Not found: |Encountered corrupt file )"
    r"|/lance-(?:file|encoding|io|table)/src/\S+\.rs:\d+:\d+$"  # the parts of Lance that read files
)
_PANIC = "Lance panicked: "


@contextmanager
def damage_told(directory: Location) -> Iterator[None]:
    """Turn a file that Lance can't read inside the block into one line; anything else passes."""
    try:
        with panics_caught():
            yield
    except (OSError, ValueError, RuntimeError) as error:
        if not tells_damage(error):
            raise
        raise MemoryStoreError(
            f"{directory} has a file that can't be read ({without_noise(error)}), see `retroclip memory verify`: "
            "restore it from a copy, or create the memory again"
        ) from error


@contextmanager
def panics_caught() -> Iterator[None]:
    """Turn a panic of Lance's Rust inside the block, which is no `Exception`, into a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # its class can't be imported
            raise
        raise RuntimeError(f"{_PANIC}{error}") from error


def tells_damage(error: Exception) -> bool:
    """Whether Lance complains of a file that is missing, cut short or not as it was written.

    What a message quotes, a predicate say, stands in the middle: it is told by its beginning, or by the place at its
    end.
    """
    message = str(error)
    return (
        not is_full_disk(error)
        and "Permission denied" not in message
        and (message.startswith(_PANIC) or _DAMAGE.search(message) is not None)
    )


def opened_table(path: Location) -> Any:
    try:
        with panics_caught():
            dataset = lance.dataset(str(path))
            _ = dataset.schema  # of a damaged version it is only now that Lance panics
            return dataset
    except (ValueError, OSError, RuntimeError) as error:
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
