"""What a memory has for a task, image by image and class by class: the parts that `why_general.py` asks after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from memories import TASKS, Sources
from numpy.typing import NDArray

from retroclip.evaluation import Samples
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.samples import class_indices
from retroclip.fusion.neighbours import find_neighbours
from retroclip.methods import MethodContext
from retroclip.retrieval import named_classes
from retroclip.retrieval.select import members
from retroclip.tasks import Task

NEIGHBOURS = 10
WORST, TAKERS = 6, 4
Parts = dict[str, dict[str, NDArray[np.bool_]]]


@dataclass
class Evidence:
    """What a memory has for a task: the classes that each pair names, whether it `shows` one of these, and the
    positions (n, `NEIGHBOURS`) of the pairs nearest to each evaluated image."""

    named: list[tuple[int, ...]]
    shows: NDArray[np.bool_]
    nearest: NDArray[np.int64]

    def counts(self, classes: int, *, shown: bool = False) -> NDArray[np.int64]:
        """How many pairs name each class (K,), or name and show it."""
        own = [one if shows or not shown else () for one, shows in zip(self.named, self.shows, strict=True)]
        return np.array([len(rows) for rows in members(own, classes)])

    def parts(self, labels: NDArray[np.int64], classes: int) -> Parts:
        """The images (n,) of each part, by the pairs of their class and by the captions of their neighbours."""
        pairs, shown = self.counts(classes)[labels], self.counts(classes, shown=True)[labels]
        said = [set().union(*(self.named[row] for row in own)) for own in self.nearest]
        right = np.array([label in own for label, own in zip(labels, said, strict=True)])
        some = np.array([bool(own) for own in said])
        return {
            "pairs of the memory that name the class": {
                "none": pairs == 0,
                "some, none shows it": (pairs > 0) & (shown == 0),
                "1 to 9 show it": (shown > 0) & (shown < 10),
                "10 or more show it": shown >= 10,
            },
            "captions of the ten nearest pairs": {
                "name the class": right,
                "name other classes only": some & ~right,
                "name none": ~some,
            },
        }


def evidence(context: MethodContext, samples: Samples, sources: Sources) -> Evidence:
    """Of the memory as the methods see it, and of `sources`' labelled photos of the task."""
    memory, task = context.known_memory, context.task
    named, ids = named_classes(context.captions, task), memory.ids()
    labelled = sources.of(TASKS[task.name])
    label_of = {pair.key: str(pair.label) for pair in labelled.pairs}
    keys = list(labelled.rows)
    labels = class_indices([label_of[key] for key in keys], task, task.name)
    photos = labelled.memory.embeddings([labelled.rows[key][0] for key in keys])
    nearest = (memory.embeddings(ids) @ photos.T).argmax(dim=1).numpy()
    shows = np.array([labels[row] in own for row, own in zip(nearest, named, strict=True)])
    found = find_neighbours(memory, samples.embed_base(context.encoder), side="image", k=NEIGHBOURS)
    return Evidence(named, shows, np.searchsorted(ids, found.ids))


def moved(outcomes: Sequence[Outcome], base: Outcome, task: Task, known: Evidence) -> dict[str, Any]:
    """Points won and lost against zero-shot (means over seeds), and which classes the lost images are taken for."""
    labels, classes = base.labels, len(task.classes)
    pairs, shown = known.counts(classes), known.counts(classes, shown=True)
    counts = np.bincount(labels, minlength=classes)
    each = (counts > 0).sum() * counts[labels] if task.metric == "mean-per-class" else np.full(len(labels), len(labels))
    weights = 100 / each  # points that an image counts
    won, lost, unnamed, to = 0.0, 0.0, 0.0, np.zeros(classes)
    for one in outcomes:
        wrong = base.correct & ~one.correct
        won += weights[one.correct & ~base.correct].sum() / len(outcomes)
        lost += weights[wrong].sum() / len(outcomes)
        unnamed += weights[wrong & (pairs[labels] == 0)].sum() / len(outcomes)
        to += np.bincount(one.predicted[wrong], weights[wrong], minlength=classes) / len(outcomes)
    takers = [
        {"class": task.classes[row], "points": float(to[row]), "pairs": int(pairs[row]), "shown": int(shown[row])}
        for row in np.argsort(-to, kind="stable")[:TAKERS]
        if to[row]
    ]
    return {
        "won": float(won), "lost": float(lost), "lost of unnamed": float(unnamed),
        "lost to named": float(to[pairs > 0].sum()), "takers": takers,
    }  # fmt: skip


def worst(outcomes: Sequence[Outcome], base: Outcome, context: MethodContext, known: Evidence) -> list[dict[str, Any]]:
    """The classes that lose most: their pairs, what they are taken for, and what the neighbours' captions say."""
    names, labels = context.task.classes, base.labels
    pairs, shown = known.counts(len(names)), known.counts(len(names), shown=True)
    change = np.mean([one.per_class() for one in outcomes], axis=0) - base.per_class()
    found = []
    for row in np.argsort(np.nan_to_num(change), kind="stable")[:WORST]:
        own = np.flatnonzero(labels == row)
        answers = Counter(
            names[one.predicted[i]] for one in outcomes for i in own if base.correct[i] and not one.correct[i]
        )
        said = Counter(caption for i in own for near in known.nearest[i] for caption in context.captions[near][:1])
        found.append({
            "class": names[row], "photos": len(own), "change": 100 * float(change[row]), "pairs": int(pairs[row]),
            "shown": int(shown[row]), "taken for": [name for name, _ in answers.most_common(2)],
            "captions": [text for text, _ in said.most_common(3)],
        })  # fmt: skip
    return found
