"""Zero-shot detection in RegionCLIP's protocol: proposals classified by the class texts, AP50 of novel, base and all.

Region features → cosine with the texts and with a background embedding of zeros → softmax → per-class non-maximum
suppression (methods.md, section 3).
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from retroclip.encoders.regions import encode_cuts
from retroclip.errors import TaskError
from retroclip.evaluation.average_precision import Boxes, coco_average_precision
from retroclip.evaluation.boxes import BoxedImages, load_boxes
from retroclip.evaluation.classification import head
from retroclip.evaluation.proposals import choose_proposals
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.regions import ap_interval
from retroclip.evaluation.result import Result

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

SCORE, NMS, PER_IMAGE, RESAMPLES = 1e-3, 0.5, 100, 200
AT_50 = np.array([0.5])


@register_protocol("detection")
def evaluate_detection(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    proposals: str = "grid",
    limit: int = 100,
    features: Literal["crop", "dense"] = "crop",
    size: int | None = None,
    context: float = 1.0,
    resamples: int = RESAMPLES,
) -> Result:
    """Detect the task's classes. `value` is AP50 over all classes; ap50-novel and ap50-base where it names novel ones.

    `proposals`: `grid`, `truth`, or a .json of boxes; `limit` of them an image. `features`: each cut out and encoded,
    or RoIAlign on the dense map at `size` pixels. Scores are multiplied with objectness as a geometric mean. Baseline:
    the same proposals with random class scores. Raises as `load_boxes` and `read_proposals`.
    """
    start = time.perf_counter()
    data = load_boxes(task, dataset, where=where, empty=True)
    classifier = head(model, task)
    propose = choose_proposals(proposals, data, limit=limit)
    logits = ProposalLogits(classifier, features=features, size=size, context=context)
    found, chance = [], []
    rng = np.random.default_rng(0)
    for i, image in enumerate(data.images):
        boxes, objectness = propose(i)
        scores = with_background(logits(image, boxes)) * objectness[:, None] ** 0.5
        found.append(keep_best(boxes, scores, i))
        chance.append(keep_best(boxes, rng.random(scores.shape), i))
    result = summarise_detections(data, task, found, chance, method=method or "zero-shot", resamples=resamples)
    encoder, seconds = classifier.encoder, time.perf_counter() - start
    return result.model_copy(
        update={
            "model": str(getattr(encoder, "name", "")),
            "fingerprint": getattr(encoder, "fingerprint", None),
            "precision": getattr(encoder, "precision", None),
            "seconds": seconds,
            "predict_seconds": seconds,
            "options": result.options
            | {"proposals": proposals, "limit": limit, "features": features, "size": size, "context": context},
        }
    )


class ProposalLogits:
    """A classifier's logits (n, K) for boxes (n, 4) of an image, by cuts or by RoIAlign on the dense map."""

    def __init__(self, classifier: "Classifier", *, features: str, size: int | None, context: float) -> None:
        self.classifier, self.features, self.size, self.context = classifier, features, size, context

    def __call__(self, image: bytes, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        encoder = self.classifier.encoder
        if self.features == "crop":
            embeddings = encode_cuts(encoder, [(image, boxes.tolist())], context=self.context)
        else:
            from retroclip.encoders.dense import pool_boxes

            embeddings = pool_boxes(encoder, image, boxes.tolist(), size=self.size)
        with torch.no_grad():
            return self.classifier(embeddings).double().cpu().numpy()


def with_background(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (n, K) of logits (n, K) beside a background whose embedding, and so whose logit, is zero."""
    padded = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
    exponent = np.exp(padded - padded.max(axis=1, keepdims=True))
    return (exponent / exponent.sum(axis=1, keepdims=True))[:, :-1]


def keep_best(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], image: int, *, score: float = SCORE, nms: float = NMS,
    limit: int = PER_IMAGE,
) -> Boxes:  # fmt: skip
    """Detections of one image from boxes (n, 4) and scores (n, K): above `score`, after per-class NMS, the best."""
    rows, classes = np.nonzero(scores > score)
    values = scores[rows, classes]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).reshape(-1, 4)[rows]
    kept = batched_nms(
        torch.from_numpy(corners), torch.from_numpy(values), torch.from_numpy(classes), nms
    )[:limit].numpy()  # fmt: skip
    rows, classes, values = rows[kept], classes[kept], values[kept]
    return Boxes(np.full(len(rows), image), classes.astype(np.int64), boxes.reshape(-1, 4)[rows], values)


def summarise_detections(
    data: BoxedImages,
    task: "Task",
    found: Sequence[Boxes],
    chance: Sequence[Boxes],
    *,
    method: str,
    resamples: int = RESAMPLES,
) -> Result:
    """The result of detections, one `Boxes` an image; `chance` are those of the baseline."""
    truth = Boxes(data.image_of, data.labels, data.boxes, crowd=data.crowd)
    n, classes = len(data), len(task.classes)
    novel = [i for i, name in enumerate(task.classes) if name in task.novel]
    parts = {"ap50": list(range(classes))}
    if novel:
        parts |= {"ap50-novel": novel, "ap50-base": [i for i in range(classes) if i not in novel]}
    joined, random = concatenated(found), concatenated(chance)
    ap = coco_average_precision(truth, joined, n_images=n, n_classes=classes)
    by_chance = coco_average_precision(truth, random, n_images=n, n_classes=classes)
    metrics = {name: ap.mean("ap50", own) for name, own in parts.items()} | {"ap": ap.mean()}
    if np.isnan(metrics["ap50"]):
        raise TaskError(f"{data.name} has no box of any class of task {task.name!r}")
    intervals = {}
    if resamples:
        for name, own in parts.items():
            chosen, seen = np.isin(truth.label, own), np.isin(joined.label, own)
            if (chosen & ~data.crowd).any():
                intervals[name] = ap_interval(
                    truth.select(chosen), joined.select(seen), n_images=n, n_classes=classes, resamples=resamples,
                    thresholds=AT_50,
                )  # fmt: skip
    return Result(
        task=task.name,
        dataset=data.name,
        split=data.split,
        n=n,
        protocol="detection",
        method=method,
        model="",
        metric="ap50",
        value=metrics["ap50"],
        interval=intervals.pop("ap50", None),
        metrics=metrics,
        intervals=intervals,
        baseline="random scores on the same proposals",
        baselines={name: by_chance.mean("ap50", own) for name, own in parts.items()} | {"ap": by_chance.mean()},
        per_class={name: float(value) for name, value in zip(task.classes, ap.ap50, strict=True)},
        templates=list(task.templates),
        missing_classes=data.missing_classes,
        rejected=data.rejected,
        data_hash=data.hash,
        options={"boxes": int((~data.crowd).sum()), "ignored": data.ignored, "detections": len(joined)},
    )


def concatenated(parts: Sequence[Boxes]) -> Boxes:
    """Detections of all images as one."""
    scores = [part.scores if part.scores is not None else np.ones(len(part)) for part in parts]
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label", "box")]
    return Boxes(arrays[0], arrays[1], arrays[2], np.concatenate(scores))
