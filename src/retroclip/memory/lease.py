"""The writer's lock of a memory on object storage: a small table that only one process can have created.

Creating a Lance table is a conditional put of its first version: of two processes that try, one fails. The holder
renews it; a lease that wasn't renewed for LIFETIME (by the writers' clocks) belongs to a process that was killed, and
whoever creates the next one in number has the memory, and leaves its lease there, released, when it ends: a holder that
merely stalled is told by it that it may have written beside the other one. Lance's own commits never lose rows, but
both may have added the same key, which `verify` names.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import lance
import pyarrow as pa

from retroclip.errors import MemoryStoreError
from retroclip.memory.location import Url

FOLDER = "writer"
LIFETIME = 120.0
RENEWED = 30.0
RELEASED = 0.0  # in place of the time of renewal


@dataclass(frozen=True, slots=True)
class _Lease:
    """The lease of a number, as it was last renewed."""

    url: Url
    number: int
    holder: str
    name: str
    renewed: float

    @property
    def table(self) -> Url:
        return self.url / FOLDER / f"{self.number:08d}.lance"

    def write(self, mode: str, *, released: bool = False) -> None:
        # In the metadata of a table without rows: it has no file but its versions, and what is listed can be read.
        told = {"holder": self.holder, "name": self.name, "renewed": repr(RELEASED if released else time.time())}
        lance.write_dataset(pa.schema([("lease", pa.bool_())], told).empty_table(), str(self.table), mode=mode)


@contextmanager
def writer_lease(url: Url) -> Iterator[None]:
    """Hold the lease of the memory at `url` for the block. Raises MemoryStoreError, naming the process that has it."""
    present = _present(url)
    if present is not None and time.time() - present.renewed < LIFETIME:
        raise _taken(present)
    number = 1 if present is None else present.number + 1
    own = _Lease(url, number, uuid4().hex, f"{os.getpid()} on {socket.gethostname()}", time.time())
    try:
        own.write("create")
    except (OSError, ValueError, RuntimeError) as error:
        other = _present(url)
        if other is None or other.number < number:
            raise MemoryStoreError(f"{url} can't be written ({str(error).splitlines()[0][:300]})") from error
        raise _taken(other) from None
    if present is not None:
        present.table.drop_table()
    ended, lost = threading.Event(), threading.Event()
    renewal = threading.Thread(target=_renew, args=(own, ended, lost), daemon=True, name="lease")
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        last = _present(url)
        kept = last is not None and last.holder == own.holder and not lost.is_set()
        if kept and present is not None:
            own.write("overwrite", released=True)
        else:
            own.table.drop_table()  # a renewal may have written it after the other one dropped it
        if not kept and last is not None and last.renewed == RELEASED:
            last.table.drop_table()
    if not kept:
        raise MemoryStoreError(
            f"{url}: this process stalled for {LIFETIME:.0f} s and another one went on writing: what was written is "
            f"there; look for doubled keys with `retroclip memory verify {url}`"
        )


def _renew(own: _Lease, ended: threading.Event, lost: threading.Event) -> None:
    """Renew the lease until the block has `ended`, or another process took it, which may be done by now: `lost`."""
    while not ended.wait(RENEWED):
        try:
            last = _present(own.url)
            if last is None or last.holder != own.holder:
                lost.set()
                return
            own.write("overwrite")
        except (OSError, ValueError, RuntimeError, MemoryStoreError):
            continue  # a network that fails now and then; the end of the block tells


def _present(url: Url) -> _Lease | None:
    """The lease of the highest number."""
    numbers = {name.partition(".lance/")[0] for name in (url / FOLDER).names() if name.endswith(".manifest")}
    if not numbers:
        return None
    last = max(numbers)
    try:
        told = lance.dataset(str(url / FOLDER / f"{last}.lance")).schema.metadata
        holder, name, renewed = (told[key].decode() for key in (b"holder", b"name", b"renewed"))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise MemoryStoreError(f"{url} was just given back by another writer: try again") from error
    return _Lease(url, int(last), holder, name, float(renewed))


def _taken(lease: _Lease) -> MemoryStoreError:
    return MemoryStoreError(
        f"{lease.url} is being written by process {lease.name}: wait until it ends, or stop it, and try again after "
        f"{LIFETIME:.0f} s"
    )
