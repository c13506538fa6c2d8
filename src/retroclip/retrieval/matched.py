"""Weak labels by string matching: the pairs whose captions name exactly one class of a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retroclip.retrieval.select import ClassNames, named_classes

if TYPE_CHECKING:
    from retroclip.tasks import Task


def enough_matched(captions: Iterable[Sequence[str]], task: Task, count: int) -> bool:
    """Whether the captions of so many pairs name exactly one class; reads no further than the last of these."""
    names = ClassNames(task)
    matched = (own for own in captions if len(names.found_in(own)) == 1)
    return sum(1 for _ in islice(matched, count)) == count


def matched_pairs(
    captions: Sequence[Sequence[str]], task: Task, *, per_class: int = 500, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows and class indices of the pairs that name exactly one class, at most `per_class` of each, drawn by `seed`.

    `captions` holds those of each pair. 500 a class is REAL-Linear's number.
    """
    rows_of: dict[int, list[int]] = {}
    for row, classes in enumerate(named_classes(captions, task)):
        if len(classes) == 1:
            rows_of.setdefault(classes[0], []).append(row)
    generator = torch.Generator().manual_seed(seed)
    rows, labels = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    for label, own in sorted(rows_of.items()):
        kept = torch.randperm(len(own), generator=generator)[:per_class]
        rows.append(torch.tensor(own)[kept])
        labels.append(torch.full((len(kept),), label))
    return torch.cat(rows), torch.cat(labels)
