"""Segmentation by MaskCLIP's dense features, or by students of them: mIoU over the data set (methods.md, section 3)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retroclip.classifiers.segmenting import segment
from retroclip.errors import ModelError, RetroclipError, SourceError
from retroclip.evaluation.bootstrap import percentile_interval, resample_counts
from retroclip.evaluation.classification import head
from retroclip.evaluation.confusion import (
    class_iou,
    confusion,
    majority_matrix,
    mean_iou,
    pixel_accuracy,
)
from retroclip.evaluation.masks import MaskedImages, load_masks, load_unmasked
from retroclip.evaluation.mistakes import count_matrix, mistakes
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result
from retroclip.evaluation.training_set import check_training, set_name, training_state
from retroclip.progress import counted

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task
    from retroclip.training.maskformer import MaskFormerStudent
    from retroclip.training.segmenter import SegmentationStudent

RESAMPLES = 1000
TRAIN_SIZE = 224
Student = Literal["maskclip+", "maskformer"]
Targets = Literal["pseudo", "base", "annotation-free"]


@register_protocol("segmentation")
def evaluate_segmentation(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    size: int | None = None,
    smoothing: bool = False,
    denoising: float = 0.0,
    residual: bool = True,
    train: str | None = None,
    student: Student = "maskclip+",
    targets: Targets = "pseudo",
    epochs: int = 12,
    seed: int = 0,
    work: str | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """A class for every pixel from patch embeddings and class texts. `value` is mIoU over the data set.

    It is mmseg's: a class that is called counts, with 0 where no pixel is of it; one that is neither is left out.

    `size` is the shorter side in pixels that the tower sees; `smoothing`, `denoising` (a threshold, 0.5 in the paper)
    and `residual` are `classifiers.segmenting`'s. With `train`, another set with masks, a student is trained on
    the labels of the classes that aren't `novel` and on pseudo-labels of those that are, and evaluated instead:
    `student` is `maskclip+` (`training.segmenter`) or `maskformer` (iCAR's form, `training.maskformer`;
    `targets="base"` leaves out the pseudo-labels). With `targets="annotation-free"` all pixels of any images have
    pseudo-labels of all classes (MaskCLIP+'s other setting): no mask is read. `metrics` then have the untrained model
    (`zero-shot-…`) and the gain over it, with paired intervals, too. `work`: `training_state`. Baseline: the most
    frequent class everywhere.
    Raises SourceError, TaskError as `load_masks`; ModelError for towers without dense features.
    """
    if not 0 <= denoising <= 1:
        raise RetroclipError(f"denoising is a threshold between 0 and 1, not {denoising:g}")
    if train is None and (student, targets) != ("maskclip+", "pseudo"):
        raise RetroclipError("student and targets are for training: name a set to learn from as train")
    if targets == "base" and student != "maskformer":
        raise RetroclipError(f"targets can be 'base' for the maskformer student alone, not for {student}")
    start = time.perf_counter()
    data, classifier = load_masks(task, dataset, where=where), head(model, task)
    options: dict[str, Any] = {"size": size, "smoothing": smoothing, "denoising": denoising, "residual": residual}
    fit_seconds, trained = 0.0, 0
    if train is None:
        name = method or "zero-shot"
        matrices = confusions(lambda image: segment(classifier, image, **options), task, data)
        result = summarise_masks(matrices, task, data, method=name, resamples=resamples)
    else:
        name, size = student, size or TRAIN_SIZE
        options = {"train": set_name(train), "epochs": epochs, "seed": seed, "size": size}
        options |= {"targets": targets} if (student, targets) != ("maskclip+", "pseudo") else {}
        fitting = time.perf_counter()
        learner = trained_student(classifier, task, data, student=student, work=work, **options | {"train": train})
        fit_seconds, trained = time.perf_counter() - fitting, sum(each.numel() for each in learner.parameters())
        untrained = confusions(lambda image: segment(classifier, image, size=size), task, data)
        matrices = confusions(learner.segment, task, data)
        result = summarise_masks(matrices, task, data, method=name, resamples=resamples)
        result = beside_untrained(result, matrices, untrained, task, resamples=resamples)
    seconds = time.perf_counter() - start
    encoder = classifier.encoder
    return result.made_by(
        encoder,
        seconds=seconds,
        fit_seconds=fit_seconds,
        trained_parameters=trained,
        seed=None if train is None else seed,
        options=options | {"without_mask": data.without_mask},
    )


def confusions(segmenter: Callable[[bytes], Tensor], task: "Task", data: MaskedImages) -> NDArray[np.int64]:
    """A confusion matrix an image (n, K, K) of what gives scores (K, H, W); ModelError where they are NaN."""
    matrices = []
    with counted(len(data.images), "images") as done:
        for key, image, mask in zip(data.keys, data.images, data.masks, strict=True):
            scores = segmenter(image)
            if bool(torch.isnan(scores).any()):
                raise ModelError(f"the model gave NaN scores for pixels of {key}: check its weights")
            matrices.append(confusion(scores.argmax(0).numpy(), mask, len(task.classes)))
            done(1)
    return np.stack(matrices)


def trained_student(
    classifier: "Classifier",
    task: "Task",
    data: MaskedImages,
    *,
    student: Student,
    train: str,
    targets: Targets = "pseudo",
    work: str | None,
    **options: Any,
) -> "SegmentationStudent | MaskFormerStudent":
    """A student of another set; SourceError where that shares an image with the evaluated one.

    Annotation-free training is that in which every class is novel, and every pixel is of some class.
    """
    from retroclip.training.maskformer import train_maskformer
    from retroclip.training.segmenter import train_segmenter

    free = targets == "annotation-free"
    learnt = load_unmasked(train) if free else load_masks(task, train)
    check_training(train, learnt, data)
    if free:
        task = task.model_copy(update={"novel": task.classes})
    if work is not None:
        settings = options | {"targets": targets, "data": learnt.hash}
        options["state"] = training_state(work, student, classifier.encoder, task, settings)
    if student == "maskformer":
        options["targets"] = "base" if targets == "base" else "pseudo"
        return train_maskformer(classifier.encoder, task, learnt.images, learnt.masks, **options)
    return train_segmenter(classifier.encoder, task, learnt.images, learnt.masks, **options)


def never_true(matrices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which classes (K,) no pixel has in any of the confusion matrices (n, K, K)."""
    return matrices.sum((0, 2)) == 0


def class_parts(task: "Task") -> dict[str, Any]:
    """Which classes each figure is the mean of: all, and novel and base ones apart where the task has both."""
    if len(task.novel) in (0, len(task.classes)):
        return {"miou": slice(None)}
    novel = np.isin(task.classes, task.novel)
    return {"miou": slice(None), "miou-novel": novel, "miou-base": ~novel}


def beside_untrained(
    result: Result, matrices: NDArray[np.int64], untrained: NDArray[np.int64], task: "Task", *, resamples: int
) -> Result:
    """The result with the untrained model's figures and the gains over them, resampled together."""
    ours, theirs, parts = class_iou(matrices.sum(0)), class_iou(untrained.sum(0)), class_parts(task)
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    draws, absent = list(resample_counts(len(matrices), resamples, 0)) if resamples else [], never_true(matrices)
    drawn = [class_iou(np.tensordot(c, matrices, 1), absent) for c in draws]
    drawn_untrained = [class_iou(np.tensordot(c, untrained, 1), absent) for c in draws]
    for name, rows in parts.items():
        metrics[f"zero-shot-{name}"] = float(np.nanmean(theirs[rows]))
        metrics[f"gain-{name}"] = float(np.nanmean(ours[rows])) - metrics[f"zero-shot-{name}"]
        if draws:
            means, others = (np.nanmean(np.concatenate(each)[:, rows], axis=1) for each in (drawn, drawn_untrained))
            intervals[f"zero-shot-{name}"] = percentile_interval(others)
            intervals[f"gain-{name}"] = percentile_interval(means - others)
    return result.model_copy(update={"metrics": metrics, "intervals": intervals})


def summarise_masks(
    matrices: NDArray[np.int64], task: "Task", data: MaskedImages, *, method: str, resamples: int = RESAMPLES
) -> Result:
    """The result from one confusion matrix an image (n, K, K); novel and base classes apart where the task has any."""
    total = matrices.sum(0)
    if not total.any():
        raise SourceError(f"{data.name} has no pixel of any class of task {task.name!r}: nothing to measure")
    by_class, base = class_iou(total), majority_matrix(total)
    parts = class_parts(task)
    metrics = {name: float(np.nanmean(by_class[rows])) for name, rows in parts.items()}
    baselines = {name: float(np.nanmean(class_iou(base)[rows])) for name, rows in parts.items()}
    intervals = {}
    if resamples:
        draws, absent = resample_counts(len(matrices), resamples, 0), never_true(matrices)
        sampled = np.concatenate([class_iou(np.tensordot(c, matrices, 1), absent) for c in draws])
        intervals = {name: percentile_interval(np.nanmean(sampled[:, rows], axis=1)) for name, rows in parts.items()}
    return Result(
        task=task.name,
        dataset=data.name,
        split=data.split,
        n=len(data),
        protocol="segmentation",
        method=method,
        model="",
        metric="miou",
        value=float(mean_iou(total)),
        interval=intervals.pop("miou", None),
        metrics=metrics | {"pixel-accuracy": pixel_accuracy(total)},
        intervals=intervals,
        baseline="the most frequent class everywhere",
        baselines=baselines | {"pixel-accuracy": pixel_accuracy(base)},
        per_class={name: float(value) for name, value in zip(task.classes, by_class, strict=True)},
        **mistakes(count_matrix(total), task.classes),
        templates=list(task.templates),
        missing_classes=[task.classes[i] for i in np.flatnonzero(never_true(matrices))],
        rejected=data.rejected,
        data_hash=data.hash,
    )
