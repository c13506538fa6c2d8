"""Average precision of detections: COCO's own by faster-coco-eval, and one that can be resampled by image.

The second one exists for intervals only: matches are made once, and a resample is a weight for each image. Both agree
(a test), and the first one is what is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes x, y, w, h (n, 4) of images (n,) and classes (n,); `scores` (n,) for detections, `crowd` (n,) for truth."""

    image: Ints
    label: Ints
    box: Floats
    scores: Floats | None = None
    crowd: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def select(self, rows: NDArray) -> "Boxes":
        """The boxes of a mask or of positions."""
        scores = None if self.scores is None else self.scores[rows]
        crowd = None if self.crowd is None else self.crowd[rows]
        return Boxes(self.image[rows], self.label[rows], self.box[rows], scores, crowd)


@dataclass(frozen=True)
class AveragePrecision:
    """AP over IoU .5 to .95 and at .5, in [0, 1], by class (K,), NaN for classes without truth."""

    ap: Floats
    ap50: Floats

    def mean(self, at: str = "ap", classes: Sequence[int] | None = None) -> float:
        """Mean over the given classes (default: all) that have truth; NaN where none has."""
        values = getattr(self, at) if classes is None else getattr(self, at)[list(classes)]
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def coco_average_precision(
    truth: Boxes, detections: Boxes, *, n_images: int, n_classes: int, max_detections: int | None = 100
) -> AveragePrecision:
    """COCO's AP by faster-coco-eval: 101 recall points, at most `max_detections` an image and class, or (None) all."""
    from faster_coco_eval import COCO, COCOeval_faster

    gt = COCO(coco_record(truth, n_images, n_classes), print_function=_silent)
    if not len(detections):
        absent = np.bincount(truth.label[~_crowd(truth)], minlength=n_classes) == 0
        return AveragePrecision(*(np.where(absent, np.nan, 0.0) for _ in range(2)))
    evaluation = COCOeval_faster(gt, gt.loadRes(coco_results(detections)), "bbox", print_function=_silent)
    evaluation.params.maxDets = [max_detections or len(detections)]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # thresholds, recalls, classes
    by_class = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))
    return AveragePrecision(by_class.mean(axis=0), by_class[0])


def coco_record(truth: Boxes, n_images: int, n_classes: int) -> dict:
    """Ground truth as COCO's annotation record."""
    crowd = _crowd(truth)
    return {
        "info": {},
        "images": [{"id": i + 1, "width": 1, "height": 1} for i in range(n_images)],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(n_classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(truth.image[i]) + 1,
                "category_id": int(truth.label[i]) + 1,
                "bbox": truth.box[i].tolist(),
                "area": float(truth.box[i, 2] * truth.box[i, 3]),
                "iscrowd": int(crowd[i]),
            }
            for i in range(len(truth))
        ],
    }


def coco_results(detections: Boxes) -> list[dict]:
    """Detections as COCO's list of results."""
    assert detections.scores is not None
    columns = zip(detections.image, detections.label, detections.box.tolist(), detections.scores, strict=True)
    return [{"image_id": int(i) + 1, "category_id": int(c) + 1, "bbox": b, "score": float(s)} for i, c, b, s in columns]


def iou(a: Floats, b: Floats, crowd: NDArray[np.bool_] | None = None) -> Floats:
    """Intersection over union (n, m) of boxes x, y, w, h; over the first box's area where the second is a crowd."""
    corners = [np.minimum(a[:, None, i] + a[:, None, i + 2], b[None, :, i] + b[None, :, i + 2]) for i in (0, 1)]
    starts = [np.maximum(a[:, None, i], b[None, :, i]) for i in (0, 1)]
    inside = np.prod([np.maximum(c - s, 0) for c, s in zip(corners, starts, strict=True)], axis=0)
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = area_a[:, None] + area_b[None] - inside
    if crowd is not None:
        union = np.where(crowd[None], area_a[:, None], union)
    return inside / np.maximum(union, 1e-12)


@dataclass(frozen=True, eq=False)
class Matches:
    """One class's detections, best first: their images (n,), right (t, n), neither (t, n); truth by image (N,)."""

    image: Ints
    right: NDArray[np.bool_]
    neither: NDArray[np.bool_]
    positives: Ints

    def resampled(self, counts: NDArray[np.integer]) -> Floats:
        """AP, mean over the thresholds, for each resample (b,); `counts` (b, N) says how often an image was drawn."""
        positives = counts @ self.positives
        drawn = counts[:, self.image].astype(np.float64)
        found = np.zeros(len(counts))
        for right, neither in zip(self.right, self.neither, strict=True):
            hits = np.cumsum(drawn * right, axis=1)
            misses = np.cumsum(drawn * ~(right | neither), axis=1)
            precision = hits / np.maximum(hits + misses, 1e-12)
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / np.maximum(positives, 1)[:, None]
            for row in range(len(counts)):
                at = np.searchsorted(recall[row], RECALL_POINTS, side="left")
                found[row] += precision[row, at[at < len(right)]].sum() / len(RECALL_POINTS)
        return np.where(positives > 0, found / len(self.right), np.nan)


def match(
    truth: Boxes,
    detections: Boxes,
    *,
    n_images: int,
    thresholds: Floats = IOU_THRESHOLDS,
    max_detections: int | None = 100,
) -> Matches:
    """COCO's greedy matching for boxes of one class: best score first, to the free truth of highest IoU.

    At most `max_detections` an image count, or (None) all.
    """
    assert detections.scores is not None
    crowd = _crowd(truth)
    parts = []
    for image in np.unique(detections.image):
        rows = np.flatnonzero(detections.image == image)
        rows = rows[np.argsort(-detections.scores[rows], kind="mergesort")][:max_detections]
        own = np.flatnonzero(truth.image == image)
        own = own[np.argsort(crowd[own], kind="mergesort")]  # objects first, crowds after
        overlaps = iou(detections.box[rows], truth.box[own], crowd[own])
        parts.append((rows, *_greedy(overlaps, crowd[own], thresholds)))
    rows = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
    right = np.concatenate([part[1] for part in parts], axis=1) if parts else np.zeros((len(thresholds), 0), bool)
    neither = np.concatenate([part[2] for part in parts], axis=1) if parts else np.zeros((len(thresholds), 0), bool)
    order = np.argsort(-detections.scores[rows], kind="mergesort")
    positives = np.bincount(truth.image[~crowd], minlength=n_images)
    return Matches(detections.image[rows[order]], right[:, order], neither[:, order], positives)


def _greedy(
    overlaps: Floats, crowd: NDArray[np.bool_], thresholds: Floats
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    right = np.zeros((len(thresholds), len(overlaps)), bool)
    neither = np.zeros_like(right)
    for t, threshold in enumerate(thresholds):
        taken = np.zeros(len(crowd), bool)
        for d, row in enumerate(overlaps):
            best, chosen = min(threshold, 1 - 1e-10), -1
            for g, value in enumerate(row):
                if taken[g] and not crowd[g]:
                    continue
                if chosen > -1 and not crowd[chosen] and crowd[g]:
                    break
                if value >= best:
                    best, chosen = value, g
            if chosen > -1:
                taken[chosen] = True
                (neither if crowd[chosen] else right)[t, d] = True
    return right, neither


def resampled_mean(matches: Sequence[Matches], counts: NDArray[np.integer]) -> Floats:
    """Mean AP over the classes that have truth in a resample, (b,)."""
    values = np.array([each.resampled(counts) for each in matches])
    present = ~np.isnan(values)
    return np.where(present, values, 0.0).sum(axis=0) / np.where(present.any(axis=0), present.sum(axis=0), np.nan)


def _crowd(truth: Boxes) -> NDArray[np.bool_]:
    return np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd


def _silent(*_: object) -> None:
    """Where faster-coco-eval would print."""
