"""What a user names as sources, read as one stream of pairs, each under a key of its own."""

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, groupby, takewhile
from pathlib import Path
from typing import Any

from retroclip.errors import SourceError
from retroclip.pairs import Pair, Rejected, dataset_pairs, parse_where, read_pairs, unique_keys


def read_sources(sources: Any, where: str | None = None) -> Iterator[Pair | Rejected]:
    """All pairs of the sources in order: a path, an iterable of pairs, or a sequence of such things, mixed at will.

    Paths that follow each other are read together, and so are data sets of Hugging Face, a DatasetDict's splits too, so
    that pairs of two of them get different keys. Raises SourceError for anything else.
    """
    if isinstance(sources, (Pair, Rejected)):
        yield sources
    elif _kind(sources) != "others":
        yield from read_sources([sources], where)
    elif isinstance(sources, Mapping):
        yield from read_sources(list(sources.values()), where)
    elif not isinstance(sources, Iterable):
        raise SourceError(f"a source is a path, pairs or a data set, not {type(sources).__name__}")
    else:
        for kind, group in groupby(sources, _kind):
            if kind == "paths":
                yield from read_pairs(list(group), where=where)
            elif kind == "data sets":
                predicate = parse_where(where) if where else None
                yield from unique_keys(pair for dataset in group for pair in dataset_pairs(dataset, predicate))
            else:
                for source in group:
                    yield from read_sources(source, where)


def _kind(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return "paths"
    return "data sets" if hasattr(source, "with_format") and hasattr(source, "features") else "others"


def describe_sources(sources: Any) -> list[str]:
    """Names of the sources for the manifest; pairs given from Python have none and are told by their number."""
    if isinstance(sources, (str, Path)):
        return [str(sources)]
    if isinstance(sources, Sequence):
        pairs = sum(isinstance(source, (Pair, Rejected)) for source in sources)
        named = [name for s in sources if not isinstance(s, (Pair, Rejected)) for name in describe_sources(s)]
        return named + ([f"<{pairs} pairs>"] if pairs else [])
    unnamed = f"<{type(sources).__name__}>"  # a data set's description is prose, or empty: no name of a source
    return [unnamed if _kind(sources) == "data sets" else getattr(sources, "description", unnamed)]


def numbered_on(
    items: Iterable[Pair | Rejected], committed: Container[str], is_stored: Callable[[Pair], bool]
) -> Iterator[Pair | Rejected]:
    """The stream with every key that another picture has already numbered on, as `read_pairs` does: `cat`, `cat~2`.

    is_stored: whether the committed row of a pair's key is that pair. A pair that is there under any number of its key
    gets that row's key, so that it counts as a duplicate, however its source was named this time.
    """
    given: dict[str, bytes] = {}

    def is_taken(key: str) -> bool:
        return key in given or key in committed

    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        content = hashlib.blake2b(item.image or b"", digest_size=16).digest()
        stem = re.sub(r"(~\d+)+$", "", item.key)
        taken = list(takewhile(is_taken, chain([stem], (f"{stem}~{number}" for number in count(2)))))
        key = f"{stem}~{len(taken) + 1}" if taken else stem
        if not is_taken(item.key):
            key = item.key
        for other in filter(is_taken, dict.fromkeys([item.key, *taken])):
            if given[other] == content if other in given else is_stored(replace(item, key=other)):
                key = other
                break
        given[key] = content
        yield replace(item, key=key)
