"""The metrics of classification, as pure functions of scores and labels.

`scores` is `(n, K)`, higher is better, any scale; `labels` is `(n,)` class indices in `[0, K)`. Values are in [0, 1].
Classes without a single sample have no accuracy and no precision: they are left out of class means.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

METRICS = ("top1", "mean-per-class", "map11", "map", "roc-auc")
MULTI_LABEL = ("map11", "map")
"""Metrics of data in which an image may have several classes, or none."""


def topk_correct(scores: Floats, labels: Ints, k: int) -> NDArray[np.bool_]:
    """Whether each sample's class is among its k highest scores, `(n,)`; ties go to the earlier class, as in argmax."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1) < k


def top1(scores: Floats, labels: Ints) -> float:
    """Share of samples whose class has the highest score."""
    return float(topk_correct(scores, labels, 1).mean())


def top5(scores: Floats, labels: Ints) -> float:
    """Share of samples whose class is among the five highest scores."""
    return float(topk_correct(scores, labels, 5).mean())


def accuracy_per_class(correct: NDArray[np.bool_], labels: Ints, n_classes: int) -> Floats:
    """Share of right answers for each class, `(K,)`; NaN for a class without samples."""
    totals = np.bincount(labels, minlength=n_classes).astype(float)
    hits = np.bincount(labels, weights=correct, minlength=n_classes)
    return np.divide(hits, totals, out=np.full(n_classes, np.nan), where=totals > 0)


def mean_per_class(scores: Floats, labels: Ints) -> float:
    """Mean over the classes present of the accuracy in each (Caltech-101, Pets, Aircraft, Flowers-102)."""
    return float(np.nanmean(accuracy_per_class(topk_correct(scores, labels, 1), labels, scores.shape[1])))


def average_precision_11(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The 11-point interpolated average precision of VOC2007 for one class; NaN without positives.

    `scores` and `positive` are `(n,)`. At each recall 0, .1, …, 1 the highest precision at that recall or above
    (Everingham et al. 2010, §4.2). Equal scores enter together, so that the order of the data does not matter.
    """
    if not positive.any():
        return float("nan")
    precision, recall = _curve(scores, positive)
    # The tolerance keeps recall 0.3 = 3/10 at or above the point 0.30000000000000004.
    points = [precision[recall >= point - 1e-9].max(initial=0.0) for point in np.linspace(0, 1, 11)]
    return float(np.mean(points))


def average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Mean precision at the rank of each positive, without interpolation, for one class; NaN without positives.

    `scores` and `positive` are `(n,)`; equal scores enter together. CLIP_benchmark's, and scikit-learn's.
    """
    if not positive.any():
        return float("nan")
    precision, recall = _curve(scores, positive)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def _curve(scores: Floats, positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall after each group of equal scores, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(positive[order])[last_of_tie]
    seen = (np.arange(len(scores)) + 1)[last_of_tie]
    return hits / seen, hits / positive.sum()


def precision_per_class(scores: Floats, labels: Ints, metric: str = "map11") -> NDArray[np.float64]:
    """The average precision of each class, `(K,)`, 11-point or (`map`) plain; NaN for a class without positives.

    `labels` may be `(n, K)` booleans (several a sample).
    """
    average = {"map11": average_precision_11, "map": average_precision}[metric]
    positive = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])
    return np.array([average(scores[:, c], positive[:, c]) for c in range(scores.shape[1])])


def map11(scores: Floats, labels: Ints) -> float:
    """Mean over the classes present of `average_precision_11`; `labels` may be `(n, K)` booleans (several a sample)."""
    return float(np.nanmean(precision_per_class(scores, labels, "map11")))


def mean_average_precision(scores: Floats, labels: Ints) -> float:
    """Mean over the classes present of `average_precision`; `labels` may be `(n, K)` booleans (several a sample)."""
    return float(np.nanmean(precision_per_class(scores, labels, "map")))


def roc_auc(scores: Floats, labels: Ints) -> float:
    """Area under the ROC curve: of class 1 against 0 for two classes (HatefulMemes), else the mean of one-against-rest.

    NaN where only one class has samples.
    """
    if scores.shape[1] == 2:
        return _binary_auc(scores[:, 1] - scores[:, 0], labels == 1)
    areas = [_binary_auc(scores[:, c], labels == c) for c in range(scores.shape[1])]
    return float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan")


def _binary_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, scores))


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal-width bins, weighted by their share (Guo et al. 2017).

    `confidence` is the probability of the predicted class, `(n,)` in [0, 1].
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=confidence, minlength=bins) - np.bincount(index, weights=correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def softmax(scores: Floats) -> Floats:
    """Row-wise softmax in float64, `(n, K)`."""
    exponent = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)
