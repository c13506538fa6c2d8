"""Walking through folders: in the order of paths, past what is hidden, and never in a circle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below `root` in the order of their paths, each with its files' names; a link that leads back is left."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield Path(folder), sorted(name for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def printable(name: str) -> str:
    """File names need not be UTF-8; what is stored must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
