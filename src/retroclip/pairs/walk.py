"""Walking through folders: in the order of paths, past what is hidden, and never in a circle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path, unread: list[OSError] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Folders below `root` in the order of their paths, each with its files' names; a link that leads back is left.

    unread: gets the errors of folders that can't be read.
    """
    seen: set[str] = set()
    onerror = None if unread is None else unread.append
    for folder, folders, files in os.walk(root, onerror=onerror, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield Path(folder), sorted(name for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
