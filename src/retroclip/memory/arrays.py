"""Named arrays in one file, written in pieces and read through a memory map: the layout of safetensors."""

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retroclip.errors import MemoryStoreError

_TYPES = {"I64": np.int64, "I32": np.int32, "I8": np.int8, "F32": np.float32, "F16": np.float16}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
Array = npt.NDArray[Any]


class ArrayFile:
    """The arrays of a file, by name: views of a memory map, whose pages are read when they are touched.

    Raises MemoryStoreError for a file that is missing, cut short, or isn't of this layout.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > 2**20:
                    raise ValueError("it has no header")
                header = json.loads(file.read(length))
            # Copy on write: torch warns of memory that it may not write, though nobody writes it.
            self._bytes = np.memmap(path, np.uint8, mode="c")
            self._arrays = _views(self._bytes[8 + length :], header)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MemoryStoreError(f"{path} is missing or damaged ({error})") from error

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def release(self) -> None:
        """Give back the pages read so far: they no longer count as this process's, and come back when touched."""
        released(self._bytes)


def released(array: Array) -> None:
    """Give back the pages of a memory map (or of a view of one) that were touched so far; what was written stays."""
    mapped: mmap.mmap = array._mmap  # type: ignore[attr-defined]
    mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def new_arrays(path: Path, shapes: dict[str, tuple[Any, tuple[int, ...]]]) -> Iterator[dict[str, Array]]:
    """Make a file of arrays {name: (dtype, shape)}, to be filled inside the block; after it, it is on the disk.

    Filling goes through a memory map, so a file may be larger than the memory. The space is reserved first: a full
    disk is an OSError here rather than a crash later. A temporary name until the file is whole is the caller's matter.
    """
    header: dict[str, Any] = {}
    end = 0
    # Large elements first: every array then starts at a multiple of its elements' size.
    for name, (kind, shape) in sorted(shapes.items(), key=lambda item: -np.dtype(item[1][0]).itemsize):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(kind)], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with path.open("w+b") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        content = np.memmap(file, np.uint8, mode="r+")
        yield _views(content[8 + len(text) :], header)
        content.flush()
        os.fsync(file.fileno())


def _views(content: Array, header: dict[str, Any]) -> dict[str, Array]:
    views = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            if end > len(content):
                raise ValueError("it is cut short")
            views[name] = content[start:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return views
