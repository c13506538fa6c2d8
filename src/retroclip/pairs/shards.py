"""Folders of tar shards or parquet files, as img2dataset and `memory export` write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.readers import reader_for
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

_TAR = re.compile(r"[^.].*?\.(tar|tar\.gz|tgz)", re.IGNORECASE)
_TABLE = re.compile(r"[^.].*?\.(parquet|pq)", re.IGNORECASE)


def shards_in(folder: Path, text: str) -> list[SourceRef]:
    """The tars and parquet files right in a folder by name, without parquet files that have the name of a tar.

    img2dataset writes such a file beside each tar, of what it says. text: what the user wrote.
    """
    files = sorted(file for file in folder.glob("*") if file.is_file())  # `glob` passes over what can't be read
    tars = {_stem(file, match) for file in files if (match := _TAR.fullmatch(file.name))}
    tables = {file for file in files if (match := _TABLE.fullmatch(file.name)) and _stem(file, match) not in tars}
    return [SourceRef(file, None, text) for file in files if file in tables or is_tar(file)]


def is_tar(file: Path) -> bool:
    """Whether it is a tar shard, by its name."""
    return _TAR.fullmatch(file.name) is not None


def _stem(file: Path, match: re.Match[str]) -> str:
    return file.name[: match.start(1) - 1]


def open_shards(shards: list[SourceRef], where: Predicate | None) -> Iterator[Pair | Rejected]:
    """Stream the pairs of all shards. Raises SourceError at the call where one can't be opened."""
    for shard in shards:
        reader_for(shard).open(shard, where)  # checks only
    return (item for shard in shards for item in reader_for(shard).open(shard, where))


def count_shards(shards: list[SourceRef]) -> int | None:
    """How many rows they have, None with tars among them."""
    counts = [reader_for(shard).count(shard) for shard in shards]
    return None if None in counts else sum(count for count in counts if count is not None)
