"""What must not be in a memory: hashes of images, and opt-outs by key, source or URL."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import write_text
from retroclip.memory.keys import former_of
from retroclip.memory.location import Location
from retroclip.memory.metadata import record_of
from retroclip.memory.pictures import hashes_of
from retroclip.pairs import Pair, Rejected

FILE_NAME = "blocklist.txt"
REASON = "on the blocklist"
HASHES = {"sha256": 64, "md5": 32}
_KINDS = (*HASHES, "key", "source", "url")


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Entries by kind: `sha256` and `md5` of an image's bytes, `key`, `source`, and `url` (of the metadata)."""

    entries: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Location) -> "Blocklist":
        """A file with an entry a line: `sha256:…`, `md5:…`, `key:…`, `source:…`, `url:…`, or a bare hash; # comments.

        Raises MemoryStoreError for a missing file or a line that is none of these.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MemoryStoreError(f"{path} can't be read as a blocklist: {error}") from None
        found: dict[str, set[str]] = {}
        for number, text in enumerate(lines, 1):
            line = text.strip()
            if line and not line.startswith("#"):
                kind, value = _entry(line, f"{path}, line {number}")
                found.setdefault(kind, set()).add(value)
        return cls({kind: frozenset(values) for kind, values in found.items()})

    @classmethod
    def of(cls, memory: Location) -> "Blocklist":
        """The blocklist that a memory keeps; empty where it has none."""
        path = memory / FILE_NAME
        return cls.read(path) if path.exists() else cls()

    def __bool__(self) -> bool:
        return any(self.entries.values())

    def __or__(self, other: "Blocklist") -> "Blocklist":
        kinds = [kind for kind in _KINDS if kind in self.entries or kind in other.entries]
        empty: frozenset[str] = frozenset()
        return Blocklist({kind: self.entries.get(kind, empty) | other.entries.get(kind, empty) for kind in kinds})

    def save(self, memory: Location) -> None:
        """Keep it in a memory, for everything that will be added."""
        lines = [f"{kind}:{value}" for kind, values in self.entries.items() for value in sorted(values)]
        write_text(memory / FILE_NAME, "".join(f"{line}\n" for line in lines))

    def blocks(self, key: str, source: str | None, url: Any, image: bytes | None) -> bool:
        """Whether a pair is on the list."""
        named = (("key", key), ("key", former_of(key)), ("source", source), ("url", url))
        if any(self._has(kind, value) for kind, value in named):
            return True
        if image is None:
            return False
        listed = ((kind, self.entries[kind]) for kind in HASHES if self.entries.get(kind))
        return any(not values.isdisjoint(hashes_of(image, kind)) for kind, values in listed)

    def _has(self, kind: str, value: Any) -> bool:
        return isinstance(value, str) and value in self.entries.get(kind, ())

    def screened(self, items: Iterable[Pair | Rejected]) -> Iterator[Pair | Rejected]:
        """The stream, with rejections in the place of pairs that are on the list."""
        for item in items:
            if isinstance(item, Pair) and self.blocks(item.key, item.source, item.metadata.get("url"), item.image):
                yield Rejected(item.key, item.source, REASON)
            else:
                yield item

    @property
    def hashes(self) -> int:
        """How many entries only an image can be compared with."""
        return sum(len(self.entries.get(kind, ())) for kind in HASHES)

    @property
    def columns(self) -> list[str]:
        """What `blocked_rows` looks at: images only where hashes are listed, for those of a memory may be terabytes."""
        return ["key", "source", "metadata", *(["image"] if self.hashes else [])]

    def blocked_rows(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with `columns` are on the list, as a mask."""
        by_url = bool(self.entries.get("url"))
        return np.array(
            [
                self.blocks(
                    row["key"],
                    row["source"],
                    record_of(row["metadata"]).get("url") if by_url else None,
                    row.get("image"),
                )
                for row in table.select(self.columns).to_pylist()
            ],
            bool,
        )


def _entry(line: str, where: str) -> tuple[str, str]:
    kind, colon, value = line.partition(":")
    if colon and kind in _KINDS and value.strip():
        value = value.strip()
    elif re.fullmatch(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{32}", line):
        kind, value = ("sha256" if len(line) == 64 else "md5"), line
    else:
        raise MemoryStoreError(f"{where}: {line[:60]!r} is not KIND:VALUE with a kind of {', '.join(_KINDS)}")
    if kind in HASHES and not re.fullmatch(rf"[0-9a-fA-F]{{{HASHES[kind]}}}", value):
        raise MemoryStoreError(f"{where}: {value[:70]!r} is not a {kind} of {HASHES[kind]} hexadecimal digits")
    return kind, value.lower() if kind in HASHES else value
