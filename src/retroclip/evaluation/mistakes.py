"""Which class is taken for which, and how often: the part of a confusion matrix that is worth reading."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Confusion

MOST_FREQUENT, WORST = 30, 30

Counted = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Class indices of the truth (m,) and of the answer (m,), and how many samples (m,) were of this pair."""


def count_answers(outcomes: Sequence[Outcome]) -> Counted:
    """How often each class was called what, means over the outcomes (the seeds of one method).

    Nothing where samples have several classes: a wrong answer is then not the confusion of one class with another.
    """
    first = outcomes[0]
    if first.labels.ndim == 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    codes = np.concatenate([o.labels.astype(np.int64) * o.n_classes + o.predicted for o in outcomes])
    found, counts = np.unique(codes, return_counts=True)
    return found // first.n_classes, found % first.n_classes, counts / len(outcomes)


def count_matrix(matrix: NDArray[np.integer]) -> Counted:
    """The same of a confusion matrix (K, K), truth by row."""
    truth, called = np.nonzero(matrix)
    return truth, called, matrix[truth, called].astype(np.float64)


def class_counts(counted: Counted, classes: Sequence[str]) -> dict[str, float]:
    """Samples of each class that has any."""
    truth, _, counts = counted
    total = np.bincount(truth, weights=counts, minlength=len(classes))
    return {name: float(count) for name, count in zip(classes, total, strict=True) if count}


def largest_confusions(
    counted: Counted, classes: Sequence[str], *, most: int = MOST_FREQUENT, worst: int = WORST
) -> list[Confusion]:
    """The most frequent confusions, and the most frequent one of each of the classes that are seldomest right.

    Ordered by count, then by share of the class. Ties go to the class that comes first.
    """
    truth, called, counts = counted
    total = np.bincount(truth, weights=counts, minlength=len(classes))
    right = np.bincount(truth[truth == called], weights=counts[truth == called], minlength=len(classes))
    wrong = np.flatnonzero(truth != called)
    ordered = wrong[np.lexsort((called[wrong], truth[wrong], -(counts / total[truth])[wrong], -counts[wrong]))]
    accuracy = np.divide(right, total, out=np.ones(len(classes)), where=total > 0)
    poor = [c for c in np.argsort(accuracy, kind="stable")[:worst].tolist() if accuracy[c] < 1]
    rows = set(ordered[:most].tolist())
    for c in poor:
        rows.add(next(row for row in ordered.tolist() if truth[row] == c))
    return [
        Confusion(
            truth=classes[truth[row]], predicted=classes[called[row]], count=float(counts[row]),
            of=float(total[truth[row]]),
        )
        for row in ordered.tolist()
        if row in rows
    ]  # fmt: skip


def mistakes(counted: Counted, classes: Sequence[str]) -> dict[str, Any]:
    """The fields of a `Result` about who is taken for whom."""
    return {"class_counts": class_counts(counted, classes), "confusions": largest_confusions(counted, classes)}
