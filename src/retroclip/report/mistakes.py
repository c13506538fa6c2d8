"""Error analysis as the report shows it: who is taken for whom, the worst classes, and images of both."""

from dataclasses import dataclass

import numpy as np

from retroclip.evaluation import Result, Samples

MOST_PAIRS, MOST_CLASSES = 12, 10


@dataclass(frozen=True)
class ConfusionRow:
    """`count` of `of` samples of a class were called another one; `before` is zero-shot's count where it is known."""

    truth: str
    predicted: str
    count: float
    of: float
    before: float | None


@dataclass(frozen=True)
class WorstClass:
    """A class that is seldom right, in [0, 1], with what it is mostly taken for; `count` is the number of samples."""

    name: str
    count: float | None
    value: float
    before: float | None
    taken_for: str
    taken: float | None


@dataclass(frozen=True)
class Changes:
    """Of `n` images: put right, spoilt, right both times, wrong both times."""

    n: int
    helped: int
    hurt: int
    right: int
    wrong: int


@dataclass(frozen=True)
class ConfusedImages:
    """Some of the images of a confusion: (encoded image, confidence of the wrong answer)."""

    truth: str
    predicted: str
    count: int
    of: int
    images: list[tuple[bytes, float]]


def confusion_rows(result: Result, base: Result | None, *, most: int = MOST_PAIRS) -> list[ConfusionRow]:
    """The most frequent confusions of a result, beside the same ones of `base`."""
    before = {(c.truth, c.predicted): c.count for c in base.confusions} if base is not None else {}
    return [
        ConfusionRow(c.truth, c.predicted, c.count, c.of, before.get((c.truth, c.predicted)))
        for c in result.confusions[:most]
    ]


def worst_classes(result: Result, base: Result | None, *, most: int = MOST_CLASSES) -> list[WorstClass]:
    """The classes of the lowest value that have mistakes, beside the same ones of `base`."""
    usual = {c.truth: c for c in reversed(result.confusions)}
    poor = sorted((item for item in result.per_class.items() if item[0] in usual), key=lambda item: item[1])
    return [
        WorstClass(
            name, result.class_counts.get(name), value, base.per_class.get(name) if base is not None else None,
            usual[name].predicted, usual[name].count,
        )
        for name, value in poor[:most]
    ]  # fmt: skip


def count_changes(base: Result, result: Result) -> Changes:
    """How many images a method put right and spoilt, by the first seed's answers."""
    before, after = base.outcomes[0].correct, result.outcomes[0].correct
    pairs = ((~before & after), (before & ~after), (before & after), (~before & ~after))
    return Changes(len(before), *(int(rows.sum()) for rows in pairs))


def collect_confused(
    result: Result, samples: Samples, *, pairs: int = 5, images: int = 6, seed: int = 0
) -> list[ConfusedImages]:
    """Images of the first seed's most frequent confusions, drawn at random; none where images have several classes."""
    outcome = result.outcomes[0]
    if outcome.labels.ndim == 2:
        return []
    wrong = np.flatnonzero(~outcome.correct)
    codes, counts = np.unique(outcome.labels[wrong] * outcome.n_classes + outcome.predicted[wrong], return_counts=True)
    rng, shown = np.random.default_rng(seed), []
    for position in np.argsort(-counts, kind="stable")[:pairs].tolist():
        truth, predicted = divmod(int(codes[position]), outcome.n_classes)
        rows = np.flatnonzero((outcome.labels == truth) & (outcome.predicted == predicted))
        drawn = sorted(rng.choice(rows, size=min(images, len(rows)), replace=False).tolist())
        shown.append(
            ConfusedImages(
                samples.classes[truth], samples.classes[predicted], len(rows), int((outcome.labels == truth).sum()),
                [(samples.images[row], float(outcome.confidence[row])) for row in drawn],
            )
        )  # fmt: skip
    return shown
