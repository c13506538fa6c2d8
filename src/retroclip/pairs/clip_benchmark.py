"""Folders in CLIP_benchmark's webdataset layout: `test/0.tar`, `test/nshards.txt`, `classnames.txt`, …"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected, label_key
from retroclip.pairs.readers import no_such_split, reader_for, register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
COUNT_FILE = "nshards.txt"


@register_reader
class ClipBenchmarkReader:
    """The shards of one split, or of all.

    `.cls` holds a line number of classnames.txt, `.npy` a mark for each line, `.txt` a caption a line. The layout is
    that of CLIP_benchmark's `clip_benchmark_export_wds` and of the data sets it publishes.
    """

    kind = "clip-benchmark"

    def accepts(self, path: Path) -> bool:
        return path.is_dir() and next(path.glob(f"*/{COUNT_FILE}"), None) is not None

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        names = list(class_names(ref.path))
        shards = _shards(ref)
        for shard in shards:
            reader_for(shard).open(shard, None)  # checks only
        return _read(shards, names, where)

    def count(self, ref: SourceRef) -> int | None:
        return None


def class_names(folder: Path) -> dict[str, str]:
    """The names in classnames.txt, one a class in order, and what each reads there; {} without that file.

    A name that is there again ("missile" in ImageNet) becomes "missile (2)", so that a name says which class is meant.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in _lines(folder / CLASS_NAMES):
        name, number = text, 1
        while label_key(name) in taken:
            number += 1
            name = f"{text} ({number})"
        taken.add(label_key(name))
        names[name] = text
    return names


def read_templates(folder: Path) -> list[str]:
    """The templates of a folder, with {} for the class name; [] where it has none."""
    return [line.replace("{c}", "{}") for line in _lines(folder / TEMPLATES) if line]


def dataset_type(folder: Path) -> str:
    """`classification`, `multilabel` or `retrieval`."""
    return next(iter(_lines(folder / "dataset_type.txt")), "classification").lower()


def _lines(path: Path) -> list[str]:
    """The lines of a text file, stripped; [] where there is no such file. SourceError if it is not UTF-8 text."""
    if not path.is_file():
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8 text") from None


def _shards(ref: SourceRef) -> list[SourceRef]:
    """The tar files that nshards.txt promises, in the order of their numbers."""
    splits = sorted(file.parent.name for file in ref.path.glob(f"*/{COUNT_FILE}"))
    if ref.split is not None and ref.split not in splits:
        raise no_such_split(ref, set(splits))
    found = []
    for split in splits if ref.split is None else [ref.split]:
        folder = ref.path / split
        text = (folder / COUNT_FILE).read_text(encoding="utf-8", errors="replace").strip()
        if not text.isdecimal() or not int(text):
            raise SourceError(f"{folder / COUNT_FILE} must hold the number of shards, and not {text[:40]!r}")
        for number in range(int(text)):
            path = folder / f"{number}.tar"
            if not path.is_file():
                raise SourceError(f"{path} is missing: {COUNT_FILE} says that there are {text} shards")
            found.append(SourceRef(path, None, ref.text))
    return found


def _read(shards: list[SourceRef], names: list[str], where: Predicate | None) -> Iterator[Pair | Rejected]:
    for shard in shards:
        for item in reader_for(shard).open(shard, None):
            pair = item if isinstance(item, Rejected) else _named(item, names)
            if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
                yield pair


def _named(pair: Pair, names: list[str]) -> Pair | Rejected:
    """The same pair with names in place of class numbers; without classnames.txt the numbers stay."""
    numbers = [*([pair.label] if pair.label is not None else []), *(pair.labels or ())]
    if not names or not numbers:
        return pair
    bad = next((n for n in numbers if not n.isdecimal() or int(n) >= len(names)), None)
    if bad is not None:
        return Rejected(pair.key, pair.source, f"class {bad!r} is not a line of {CLASS_NAMES} (0 to {len(names) - 1})")
    return replace(
        pair,
        label=None if pair.label is None else names[int(pair.label)],
        labels=None if pair.labels is None else tuple(names[int(number)] for number in pair.labels),
    )
