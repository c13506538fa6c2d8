"""Zero-shot classification of annotated regions: every box is cut out and classified.

AP over all (box, class) scores without non-maximum suppression or threshold, and top-1 beside it (methods.md,
section 5; RA-CLIP's supplementary).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.encoders.regions import encode_cuts
from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation.average_precision import (
    Boxes,
    Matches,
    coco_average_precision,
    match,
    resampled_mean,
)
from retroclip.evaluation.bootstrap import percentile_interval, resample_counts
from retroclip.evaluation.boxes import BoxedImages, load_boxes
from retroclip.evaluation.classification import head
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

RESAMPLES = 200  # of the AP: each is a pass over all (box, class) scores


@register_protocol("regions")
def evaluate_regions(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    context: float = 1.0,
    features: Literal["crop", "dense"] = "crop",
    size: int | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """Classify every annotated box. `value` is AP (IoU .5 to .95), `metrics` have ap50, top1 and mean-per-class too.

    `context` grows the cut about the box; `features="dense"` pools the dense map of the whole image instead (RoIAlign),
    computed at `size` pixels on the shorter side. Baselines: AP of random scores, top-1 of the most frequent class.
    Raises SourceError, TaskError as `load_boxes`.
    """
    if not 0 < context <= 10:
        raise RetroclipError(f"context is a factor between 0 and 10, not {context:g}")
    start = time.perf_counter()
    data = load_boxes(task, dataset, where=where)
    if data.crowd.all():
        raise SourceError(f"{dataset} has boxes of crowds only: nothing to classify")
    classifier = head(model, task)
    encoder = classifier.encoder
    embeddings = embed_regions(encoder, data, context=context, features=features, size=size)
    with torch.no_grad():
        logits = classifier(embeddings).float().cpu().numpy()
    own = ~data.crowd
    answers = logits[own]
    outcome = Outcome.from_logits(answers, data.labels[own], keep_scores=False)
    truth = data.truth
    # All scores count: COCO's 100 an image and class would leave out boxes of a crowded image.
    shape: dict[str, Any] = {"n_images": len(data), "n_classes": len(task.classes), "max_detections": None}
    # Log-probabilities: the same order as probabilities, without their ties at 0.
    detections = scored_boxes(data, own, lambda rows: log_softmax(answers[rows]))
    ap = coco_average_precision(truth, detections, **shape)
    rng = np.random.default_rng(0)
    random = scored_boxes(data, own, lambda rows: rng.random((len(rows), len(task.classes))))
    chance = coco_average_precision(truth, random, **shape)
    seconds = time.perf_counter() - start
    return Result(
        task=task.name,
        dataset=data.name,
        split=data.split,
        n=len(data),
        protocol="regions",
        method=method or "zero-shot",
        model="",
        metric="ap",
        value=ap.mean(),
        interval=ap_interval(truth, detections, **shape, resamples=resamples) if resamples else None,
        top1=outcome.value("top1"),
        top1_interval=clustered_top1(outcome, data.image_of[own], len(data)) if resamples else None,
        metrics={
            "ap": ap.mean(),
            "ap50": ap.mean("ap50"),
            **{name: outcome.value(name) for name in ("top1", "mean-per-class")},
            "top5": outcome.top5,
        },
        baseline="random scores (ap, ap50), the most frequent class (top1)",
        baselines={"ap": chance.mean(), "ap50": chance.mean("ap50"), "top1": majority(outcome.labels)},
        per_class={n: float(v) for n, v in zip(task.classes, ap.ap, strict=True)},
        **mistakes(count_answers([outcome]), task.classes),
        templates=list(task.templates),
        missing_classes=data.missing_classes,
        rejected=data.rejected,
        data_hash=data.hash,
        options={
            "boxes": int(own.sum()), "clipped": data.clipped, "ignored": data.ignored, "context": context,
            "features": features, "size": size,
        },
        outcomes=[outcome],
    ).made_by(encoder, seconds=seconds)  # fmt: skip


def embed_regions(
    encoder: "Encoder", data: BoxedImages, *, context: float = 1.0, features: str = "crop", size: int | None = None
) -> torch.Tensor:
    """Embeddings (n, d) of all boxes of a set, by cuts or from dense maps."""
    parts = [(image, data.boxes[data.image_of == i]) for i, image in enumerate(data.images)]
    if features == "crop":
        return encode_cuts(encoder, parts, context=context)
    from retroclip.encoders.dense import pool_boxes

    return torch.cat([pool_boxes(encoder, image, boxes, size=size) for image, boxes in parts if len(boxes)])


def scored_boxes(
    data: BoxedImages, own: NDArray[np.bool_], score: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> Boxes:
    """Each of the `own` boxes with each class as a detection; `score` gives (m, K) for rows (m,) of the own boxes.

    Without classes that nobody looked for in an image (LVIS's federated annotation). Image by image: all boxes with all
    of LVIS's 1,203 classes would be 300 million detections.
    """
    image_of, boxes = data.image_of[own], data.boxes[own]
    images, labels, rows_of, scores = [], [], [], []
    for image in range(len(data)):
        rows = np.flatnonzero(image_of == image)
        values = score(rows)
        row, label = np.nonzero(np.broadcast_to(data.asked(image), values.shape))
        images.append(np.full(len(row), image))
        labels.append(label)
        rows_of.append(rows[row])
        scores.append(values[row, label])
    return Boxes(np.concatenate(images), np.concatenate(labels), boxes[np.concatenate(rows_of)], np.concatenate(scores))


def class_matches(truth: Boxes, detections: Boxes, *, n_images: int, n_classes: int, **options) -> list[Matches]:
    """`match` for every class that has truth."""
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    present = np.unique(truth.label[~crowd])
    return [
        match(truth.select(truth.label == c), detections.select(detections.label == c), n_images=n_images, **options)
        for c in present
    ]


def ap_interval(
    truth: Boxes,
    detections: Boxes,
    *,
    n_images: int,
    n_classes: int,
    base: Boxes | None = None,
    resamples: int = RESAMPLES,
    **options,
) -> tuple[float, float]:
    """95 % interval of the mean AP under resampling of the images, centred on the AP itself.

    With `base`, other detections on the same images: of the gain over their AP, both under the same resamples.

    An image drawn twice has its hits twice in a row, which raises the AP of rare classes: that shift, the mean of the
    resamples less the AP, is taken off both ends.
    """
    counts = [np.ones((1, n_images), dtype=np.int64), *resample_counts(n_images, resamples, 0)]
    values = np.zeros(1 + resamples)
    for sign, each in ((1, detections), (-1, base)):
        if each is not None:
            matches = class_matches(truth, each, n_images=n_images, n_classes=n_classes, **options)
            values += sign * np.concatenate([resampled_mean(matches, drawn) for drawn in counts])
    once, drawn = values[0], values[1:]
    low, high = percentile_interval(drawn - (np.nanmean(drawn) - once))
    return max(low, 0.0 if base is None else -1.0), min(high, 1.0)


def clustered_top1(outcome: Outcome, image_of: NDArray[np.int64], n_images: int) -> tuple[float, float]:
    """95 % interval of top-1 under resampling of the images: boxes of one image are not independent."""
    right = np.bincount(image_of, weights=outcome.correct, minlength=n_images)
    total = np.bincount(image_of, minlength=n_images)
    drawn = [(counts @ right) / np.maximum(counts @ total, 1) for counts in resample_counts(n_images, 2000, 0)]
    return percentile_interval(np.concatenate(drawn))


def majority(labels: NDArray[np.integer]) -> float:
    """The share of the most frequent label: what always answering it would score."""
    return float(np.bincount(labels).max() / len(labels))


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Row-wise, in float64."""
    return torch.from_numpy(logits).double().log_softmax(dim=1).numpy()
