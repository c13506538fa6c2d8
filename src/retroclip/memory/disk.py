"""Files that appear whole, and a full disk told in one line."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retroclip.errors import MemoryStoreError
from retroclip.files import write_whole
from retroclip.memory.location import Location, Url


def write_json(path: Location, content: dict[str, Any]) -> None:
    """`write_text` of an object as JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False))


def write_text(path: Location, text: str) -> None:
    """Write so that `path` holds either its old text or all of the new one, whatever happens meanwhile."""
    if isinstance(path, Url):
        path.write_text(text)
    else:
        write_whole(path, text)


def read_json(path: Location, advice: str = "restore it from a copy or create the memory again") -> dict[str, Any]:
    """Read a JSON object.

    Raises MemoryStoreError, ending with `advice`, when it is damaged, FileNotFoundError when it isn't there.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MemoryStoreError(f"{path} is damaged ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise MemoryStoreError(f"{path} is damaged (not a JSON object): {advice}")
    return content


def size_on_disk(directory: Path) -> int:
    """Bytes of all files below `directory`; files that a writer removes meanwhile count as nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


def is_full_disk(error: BaseException) -> bool:
    """Whether an error means a full disk; Lance tells it only in the message, of several exception types."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    message = str(error)
    return "No space left on device" in message or "os error 28" in message or "Disk quota exceeded" in message


@contextmanager
def full_disk_told(path: Location, advice: str) -> Iterator[None]:
    """Turn a full disk inside the block into one MemoryStoreError line that ends with `advice`."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise MemoryStoreError(f"the disk that holds {path} is full: {advice}") from error
