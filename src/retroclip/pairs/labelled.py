"""Labelled images for evaluation: a DATASET of the command line, read whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs.pair import Rejected
from retroclip.pairs.sources import read_pairs


@dataclass(slots=True)
class LabelledSet:
    """Images (encoded) with one label each, aligned. `skipped` counts the rows without a label."""

    name: str
    split: str
    keys: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    skipped: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted(set(self.labels))


def load_labelled(dataset: str | Path, *, where: str | None = None) -> LabelledSet:
    """Read a labelled data set: a parquet file with `image` and `label` columns, a folder of class folders, …

    `#split` after the path chooses a split; without it every row is read and `split` is "all".

    Raises:
        SourceError: as read_pairs, and when no row has a label.
    """
    text = str(dataset)
    path, mark, split = (text, "", "") if Path(text).exists() else text.rpartition("#")
    path = path if mark else text
    data = LabelledSet(name=Path(path).stem, split=split if mark else "all")
    for item in read_pairs(dataset, where=where):
        if isinstance(item, Rejected):
            data.rejected.append(item)
        elif item.label is None or item.image is None:
            data.skipped += 1
        else:
            data.keys.append(item.key)
            data.images.append(item.image)
            data.labels.append(item.label)
    if not data.keys:
        found = f"{data.skipped} images without a label and {len(data.rejected)} that can't be read"
        chosen = f" for where {where!r}" if where else ""
        raise SourceError(f"{text}: no labelled image{chosen}, but {found}; a label column or class folders are needed")
    return data
