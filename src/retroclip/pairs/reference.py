"""What the user names: `path#split`, a brace pattern or a wildcard, made into existing paths."""

from __future__ import annotations

import glob
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from retroclip.errors import SourceError

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class SourceRef:
    """One existing file or folder and the split asked of it; `text` is what the user wrote."""

    path: Path
    split: str | None
    text: str

    @property
    def name(self) -> str:
        """Short name for keys and messages."""
        return self.path.name or str(self.path)


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` or `{train,val}.tar` → every name, in order; ranges keep their zeros, as in a shell."""
    parts = _BRACES.split(pattern)
    choices = [[part] if i % 2 == 0 else _alternatives(part) for i, part in enumerate(parts)]
    return ["".join(combination) for combination in itertools.product(*choices)]


def _alternatives(body: str) -> list[str]:
    span = _RANGE.fullmatch(body)
    if span is None:
        return body.split(",") if "," in body else [f"{{{body}}}"]
    first, last = span.groups()
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    step = 1 if int(first) <= int(last) else -1
    return [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]


def resolve(source: str | Path) -> list[SourceRef]:
    """Existing paths of one source, in order.

    Raises:
        SourceError: a path, or a part of a brace pattern, does not exist.
    """
    text = str(source)
    if not text.strip():
        raise SourceError("the name of a source is empty: name a file or folder, '.' for this one")
    if Path(text).exists():
        return [SourceRef(Path(text), None, text)]
    pattern, mark, split = text.rpartition("#")
    if not mark:
        pattern, split = text, ""
    if mark and not split:
        raise SourceError(f"{text}: name a split after the '#', or leave the '#' out")
    paths = [path for name in expand_braces(pattern) for path in _existing(name, text)]
    return [SourceRef(path, split or None, text) for path in paths]


def _existing(name: str, text: str) -> list[Path]:
    if Path(name).exists():
        return [Path(name)]
    matches = sorted(glob.glob(name)) if glob.has_magic(name) else []
    if not matches:
        missing = "" if name == text else f" (from {text})"
        raise SourceError(f"no such file or folder: {name}{missing}; check the path")
    return [Path(match) for match in matches]
