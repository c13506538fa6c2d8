"""One writer at a time holds a memory; readers hold it together, and keep what would break them waiting."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from retroclip.errors import MemoryStoreError
from retroclip.memory.lease import writer_lease
from retroclip.memory.location import Location, Url

LOCK_NAME = "writer.lock"
READERS_NAME = "readers.lock"


class Reading:
    """Shows that a memory is open, for as long as the object lives. Where no file can be made, nobody can tell."""

    def __init__(self, directory: Location) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        if isinstance(directory, Url):
            return
        try:
            self._descriptor = os.open(directory / READERS_NAME, os.O_RDONLY | os.O_CREAT, 0o644)
        except OSError:
            return
        if not self._locked(fcntl.LOCK_SH):
            raise MemoryStoreError(f"{directory} is being purged by another process: wait until it ends, and try again")

    def __reduce__(self) -> tuple[type["Reading"], tuple[Location]]:
        return Reading, (self._directory,)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _locked(self, kind: int) -> bool:
        if self._descriptor is None:
            return True
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has the memory open; if so, nobody can open it inside the block.

        Of one on object storage nobody can tell: no.
        """
        if isinstance(self._directory, Url):
            yield False
            return
        only = self._locked(fcntl.LOCK_EX)
        if not only and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # the failed change gave the old lock up
        try:
            yield only
        finally:
            if only:
                self._locked(fcntl.LOCK_SH)


@contextmanager
def writer_lock(directory: Location) -> Iterator[None]:
    """Hold `directory/writer.lock` for the block. Raises MemoryStoreError, naming the process, when another has it.

    The lock is the kernel's (`flock`) and the file only says who has it, so the file of a process that was killed is
    stale at once and the next writer takes it over, without a guess from a process number that may have been reused.
    The directory may be renamed inside the block: the lock goes with it. On object storage it is a lease.
    """
    if isinstance(directory, Url):
        with writer_lease(directory):
            yield
        return
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
