"""How far long work on a memory is, and how many pairs its sources have."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from retroclip.memory.disk import size_on_disk
from retroclip.memory.sources import describe_sources
from retroclip.pairs import Pair, count_pairs, is_embedding_folder, open_embeddings, read_pairs, resolve
from retroclip.progress import progress

Report = Callable[[int, int], None]
Done = Callable[[int], None]
SAMPLE_PAIRS = 64
TAR_OVERHEAD = 2048  # headers and padding of an image and its text


@contextmanager
def reporter(total: Callable[[], int | None], shown: bool, also: Report | None) -> Iterator[Report | None]:
    """A function to call with the numbers of pairs read and rejected so far; shown on stderr if wanted.

    total: asked once for the number of pairs, exact or about, None where nobody knows.
    """
    if not shown:
        yield also
        return
    with progress(total, "encoding", "pairs") as show:

        def report(read: int, rejected: int) -> None:
            show(read, rejected)
            if also:
                also(read, rejected)

        yield report


@contextmanager
def steps(doing: str, what: str, total: int, shown: bool) -> Iterator[Done]:
    """A function to call with how many of `total` rows, pairs or whatever it is are done; shown on stderr if wanted."""
    if not shown:
        yield nothing
        return
    with progress(total, doing, what) as show:
        yield show


def nothing(done: int) -> None:
    """What there is to call where nobody looks on."""


def total_pairs(sources: Any) -> int | None:
    """Number of pairs, where all sources are named and it can be told cheaply."""
    names = _named(sources)
    counts = [
        open_embeddings(Path(name)).rows if is_embedding_folder(Path(name)) else count_pairs(name) for name in names
    ]
    return None if None in counts or not counts else sum(count for count in counts if count is not None)


def expected_pairs(sources: Any, where: str | None = None) -> int | None:
    """`total_pairs`, else about as many, by the first images and the bytes of all sources.

    None for unnamed ones, and where a predicate chooses: how many it lets through only reading them would tell.
    """
    if where is not None and where.strip():
        return None
    total, names = total_pairs(sources), _named(sources)
    if total is not None or not names:
        return total
    first = read_pairs(resolve(names[0])[0].path)  # alone: of thousands of shards each would be opened for a check
    sizes = [len(item.image or b"") for item in islice(first, SAMPLE_PAIRS) if isinstance(item, Pair)]
    return pairs_by_bytes(sources, sum(sizes) / len(sizes)) if sizes else None


def pairs_by_bytes(sources: Any, mean_bytes: float) -> int:
    """Pairs in tars and other sources that don't tell: their bytes over those of a pair, whose image has mean_bytes."""
    paths = [ref.path for name in _named(sources) for ref in resolve(name)]
    total = sum(size_on_disk(path) if path.is_dir() else os.path.getsize(path) for path in paths)
    return int(total / (mean_bytes + TAR_OVERHEAD))


def _named(sources: Any) -> list[str]:
    """The names of the sources, if all have one."""
    names = describe_sources(sources)
    return [] if any(name.startswith("<") for name in names) else names
