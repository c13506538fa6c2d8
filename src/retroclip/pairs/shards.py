"""Folders of tar shards or parquet files, as img2dataset and `memory export` write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from retroclip.pairs.embeddings import METADATA, is_embedding_folder
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.readers import reader_for
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.walk import walk
from retroclip.pairs.where import Predicate

_TAR = re.compile(r"[^.].*?\.(tar|tar\.gz|tgz)", re.IGNORECASE)
_TABLE = re.compile(r"[^.].*?\.(parquet|pq)", re.IGNORECASE)


def shards_in(folder: Path, text: str) -> list[SourceRef]:
    """The tars and parquet files below a folder in the order of their paths, without what belongs to other layouts.

    img2dataset writes a parquet file beside each tar, of what it says; folders of embeddings have metadata in such
    files. text: what the user wrote.
    """
    places = (each for each in walk(folder) if each[0] == folder or not _is_metadata(each[0]))
    return [SourceRef(place / name, None, text) for place, names in places for name in _shards(names)]


def _is_metadata(folder: Path) -> bool:
    return folder.name == METADATA and is_embedding_folder(folder.parent)


def _shards(names: list[str]) -> list[str]:
    """Those of the names of a folder's files that are shards."""
    tars = {_stem(match) for name in names if (match := _TAR.fullmatch(name))}
    tables = {name for name in names if (match := _TABLE.fullmatch(name)) and _stem(match) not in tars}
    return [name for name in names if name in tables or is_tar(name)]


def is_tar(name: str) -> bool:
    """Whether a file of this name is a tar shard."""
    return _TAR.fullmatch(name) is not None


def _stem(match: re.Match[str]) -> str:
    return match.string[: match.start(1) - 1]


def open_shards(shards: list[SourceRef], where: Predicate | None) -> Iterator[Pair | Rejected]:
    """Stream the pairs of all shards. Raises SourceError at the call where one can't be opened."""
    for shard in shards:
        reader_for(shard).open(shard, where)  # checks only
    return (item for shard in shards for item in reader_for(shard).open(shard, where))


def count_shards(shards: list[SourceRef]) -> int | None:
    """How many rows they have, None with tars among them."""
    counts = [reader_for(shard).count(shard) for shard in shards]
    return None if None in counts else sum(count for count in counts if count is not None)
