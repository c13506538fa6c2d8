"""Read pairs from any source: the one door of this room."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs import arrow, clip_benchmark, coco, mask_folder, voc  # noqa: F401  (each registers its reader, before `folder` does)

# isort: split
from retroclip.pairs import folder, parquet, table, webdataset  # noqa: F401
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.readers import reader_for
from retroclip.pairs.reference import SourceRef, resolve
from retroclip.pairs.where import parse_where

Source = str | Path


def read_pairs(source: Source | Sequence[Source], *, where: str | None = None) -> Iterator[Pair | Rejected]:
    """Stream the pairs of one or several sources, images still encoded, in an order that never changes.

    A source is a folder (of images, or of tars or parquet files), tar shards (`shard-{000..004}.tar`), a parquet, csv
    or tsv file, a Lance table, or what `datasets` saved; `#split` after it chooses a split, `where` chooses rows by an
    SQL-like predicate over the columns.
    Keys are made unique over all sources; for that a 64-bit hash of each key is held, and nothing else grows with the
    number of rows.

    Raises:
        SourceError: at the call: no such path, kind, column or split, an empty folder, or a predicate not understood.

    >>> pair = next(read_pairs("photos/"))
    >>> pair.key, pair.captions
    ('00', ('picture 0 of a cat',))
    """
    predicate = parse_where(where) if where is not None and where.strip() else None
    refs = _resolve_all(source)
    for ref in refs:
        reader_for(ref).open(
            ref, predicate
        )  # checks only; opened again in its turn, so that few files are open at once
    return unique_keys(pair for ref in refs for pair in reader_for(ref).open(ref, predicate))


def count_pairs(source: Source | Sequence[Source]) -> int | None:
    """How many rows the sources have, for a progress bar, or None where only reading them would tell."""
    total = 0
    for ref in _resolve_all(source):
        count = reader_for(ref).count(ref)
        if count is None:
            return None
        total += count
    return total


def _resolve_all(source: Source | Sequence[Source]) -> list[SourceRef]:
    sources = [source] if isinstance(source, (str, Path)) else source
    if not sources:
        raise SourceError("no source given; name a folder, tar, parquet, csv or tsv file")
    return [ref for one in sources for ref in resolve(one)]


def unique_keys(pairs: Iterator[Pair | Rejected]) -> Iterator[Pair | Rejected]:
    """The stream with a number at each key that was seen before: `cat`, `cat~2`, `cat~3`."""
    seen: set[int] = set()
    for item in pairs:
        key, number = item.key, 1
        while _digest(key) in seen:
            number += 1
            key = f"{item.key}~{number}"
        seen.add(_digest(key))
        yield item if key == item.key else replace(item, key=key)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "big")
