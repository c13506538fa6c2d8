"""Intersection over union from confusion matrices."""

import numpy as np
from numpy.typing import NDArray

IGNORE = 255


def confusion(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], n_classes: int, ignore: int = IGNORE
) -> NDArray[np.int64]:
    """How many pixels of each class (rows) were called what (columns), (K, K); pixels whose truth is `ignore` are out.

    `predicted` and `truth` are class indices of the same shape. ValueError for another shape or an index ≥ K.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"a prediction of shape {predicted.shape} for a mask of shape {truth.shape}")
    kept = truth != ignore
    rows, columns = truth[kept].astype(np.int64), predicted[kept].astype(np.int64)
    if rows.size and max(rows.max(), columns.max()) >= n_classes:
        raise ValueError(f"class index {max(rows.max(), columns.max())} of {n_classes} classes")
    return np.bincount(rows * n_classes + columns, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_iou(matrix: NDArray[np.number], absent: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Intersection over union of each class (…, K) of confusion matrices (…, K, K), as mmseg counts it.

    0 for a class that is called and nowhere true, NaN for one that is neither. `absent` (K,) are the classes that are
    nowhere true in the data set of which the matrices are resamples: others that a resample lacks are NaN, not 0.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    truth = matrix.sum(-1)
    union = truth + matrix.sum(-2) - right
    counted = (union > 0) if absent is None else (truth > 0) | (absent & (union > 0))
    return np.where(counted, right / np.maximum(union, 1), np.nan)


def mean_iou(matrix: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean over the classes that are true or called anywhere (…,): mIoU as mmseg has it."""
    return np.nanmean(class_iou(matrix), axis=-1)


def pixel_accuracy(matrix: NDArray[np.number]) -> float:
    """Share of pixels called by their class."""
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def majority_matrix(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The confusion matrix of always answering the most frequent class."""
    constant = np.zeros_like(matrix)
    constant[:, matrix.sum(1).argmax()] = matrix.sum(1)
    return constant
