"""Labelled images for evaluation: a DATASET of the command line, read whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.sources import read_pairs


@dataclass(slots=True)
class LabelledSet:
    """Images (encoded) with one label each, aligned. `skipped` counts the rows without a label.

    Where every image may have any number of labels, they are in `label_sets`, and `labels` is empty.

    >>> len(load_labelled("labelled/"))
    20
    """

    name: str
    split: str
    keys: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    skipped: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    label_sets: list[tuple[str, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted(set(self.labels).union(*self.label_sets))


def load_labelled(dataset: str | Path, *, where: str | None = None) -> LabelledSet:
    """Read a labelled data set: a parquet file with `image` and `label` columns, a folder of class folders, …

    Where no row has a `label`, those with `labels`, or with the labels of boxes, are read. `#split` after the path
    chooses a split; without it every row is read and `split` is "all".

    Raises:
        SourceError: as read_pairs, and when no row has a label.

    >>> load_labelled("labelled/").classes
    ['cat', 'dog']
    """
    text = str(dataset)
    path, mark, split = (text, "", "") if Path(text).exists() else text.rpartition("#")
    path = path if mark else text
    data = LabelledSet(name=Path(path).stem, split=split if mark else "all")
    several: list[tuple[str, bytes, tuple[str, ...]]] = []
    for item in read_pairs(dataset, where=where):
        if isinstance(item, Rejected):
            data.rejected.append(item)
        elif item.image is None:
            data.skipped += 1
        elif item.label is not None:
            data.keys.append(item.key)
            data.images.append(item.image)
            data.labels.append(item.label)
        elif (labels := _several(item)) is not None:
            several.append((item.key, item.image, labels))
        else:
            data.skipped += 1
    if data.keys:
        data.skipped += len(several)
    elif several:
        data.keys, data.images, data.label_sets = (list(column) for column in zip(*several, strict=True))  # type: ignore[assignment]
    if not data.keys and where and not data.skipped and not data.rejected:
        raise SourceError(f"{text} has no row where {where}")
    if not data.keys:
        found = f"{data.skipped} images without a label and {len(data.rejected)} that can't be read"
        chosen = f" for where {where!r}" if where else ""
        raise SourceError(f"{text}: no labelled image{chosen}, but {found}; a label column or class folders are needed")
    return data


def _several(pair: Pair) -> tuple[str, ...] | None:
    """The labels of an image that may have any number of them, or None where nothing says that it may."""
    if pair.labels is not None:
        return pair.labels
    whole = [box for box in pair.boxes if isinstance(box, tuple) and len(box) == 5]  # label, x, y, w, h
    return tuple(dict.fromkeys(str(box[0]) for box in whole)) if whole else None
