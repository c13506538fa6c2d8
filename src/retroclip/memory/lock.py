"""One writer at a time holds a memory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retroclip.errors import MemoryStoreError

LOCK_NAME = "writer.lock"


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Hold `directory/writer.lock` for the block. Raises MemoryStoreError, naming the process, when another has it.

    The lock is the kernel's (`flock`) and the file only says who has it, so the file of a process that was killed is
    stale at once and the next writer takes it over, without a guess from a process number that may have been reused.
    The directory may be renamed inside the block: the lock goes with it.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise MemoryStoreError(
                f"{directory} is being written by process {holder}: wait until it ends, or stop it, and try again"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
