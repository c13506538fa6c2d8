"""Segmentation by MaskCLIP's dense features, or by students of them: mIoU over the data set (methods.md, section 3)."""

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from retroclip.classifiers.segmenting import segment
from retroclip.errors import BadImageError, ModelError, RetroclipError, SourceError, TaskError
from retroclip.evaluation.bootstrap import percentile_interval, resample_counts
from retroclip.evaluation.classification import head
from retroclip.evaluation.confusion import (
    IGNORE,
    class_iou,
    confusion,
    majority_matrix,
    mean_iou,
    pixel_accuracy,
)
from retroclip.evaluation.mistakes import count_matrix, mistakes
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result, hash_samples
from retroclip.evaluation.samples import MAX_REJECTED, NAMED_LABELS
from retroclip.evaluation.training_set import check_training

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task
    from retroclip.training.maskformer import MaskFormerStudent
    from retroclip.training.segmenter import SegmentationStudent

RESAMPLES = 1000
TRAIN_SIZE = 224
Student = Literal["maskclip+", "maskformer"]
Targets = Literal["pseudo", "base"]


@dataclass(eq=False)
class MaskedImages:
    """Images with masks (H, W) of class indices, 255 where a pixel belongs to no class of the task."""

    name: str
    split: str | None
    keys: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    masks: list[NDArray[np.uint16]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    without_mask: int = 0

    def __len__(self) -> int:
        return len(self.images)


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
    resamples: int = RESAMPLES,
) -> Result:
    """A class for every pixel from patch embeddings and class texts. `value` is mIoU over the classes that occur.

    `size` is the shorter side in pixels that the tower sees; `smoothing`, `denoising` (a threshold, 0.5 in the paper)
    and `residual` are `classifiers.segmenting`'s. With `train`, another set with masks, a student is trained on
    the labels of the classes that aren't `novel` and on pseudo-labels elsewhere, and evaluated instead: `student`
    is `maskclip+` (`training.segmenter`) or `maskformer` (iCAR's form, `training.maskformer`; `targets="base"` leaves
    out the pseudo-labels). `metrics` then have the untrained model (`zero-shot-…`) and the gain over it, with paired
    intervals, too. Baseline: the most frequent class everywhere.
    Raises SourceError, TaskError as `load_masks`; ModelError for towers without dense features.
    """
    if not 0 <= denoising <= 1:
        raise RetroclipError(f"denoising is a threshold between 0 and 1, not {denoising:g}")
    if train is None and (student, targets) != ("maskclip+", "pseudo"):
        raise RetroclipError("student and targets are for training: name a set with masks as train")
    if targets == "base" and student != "maskformer":
        raise RetroclipError(f"targets can be 'base' for the maskformer student alone, not for {student}")
    start = time.perf_counter()
    data, classifier = load_masks(task, dataset, where=where), head(model, task)
    options: dict[str, Any] = {"size": size, "smoothing": smoothing, "denoising": denoising, "residual": residual}
    if train is None:
        name = method or "zero-shot"
        matrices = confusions(lambda image: segment(classifier, image, **options), task, data)
        result = summarise_masks(matrices, task, data, method=name, resamples=resamples)
    else:
        name, size = student, size or TRAIN_SIZE
        options = {"train": train, "epochs": epochs, "seed": seed, "size": size}
        options |= {"targets": targets} if student == "maskformer" else {}
        learner = trained_student(classifier, task, data, student=student, **options)
        untrained = confusions(lambda image: segment(classifier, image, size=size), task, data)
        matrices = confusions(learner.segment, task, data)
        result = summarise_masks(matrices, task, data, method=name, resamples=resamples)
        result = beside_untrained(result, matrices, untrained, task, resamples=resamples)
    seconds = time.perf_counter() - start
    encoder = classifier.encoder
    return result.model_copy(
        update={
            "model": str(getattr(encoder, "name", "")),
            "fingerprint": getattr(encoder, "fingerprint", None),
            "precision": getattr(encoder, "precision", None),
            "seconds": seconds,
            "predict_seconds": seconds,
            "seed": None if train is None else seed,
            "options": options | {"without_mask": data.without_mask},
        }
    )


def confusions(segmenter: Callable[[bytes], Tensor], task: "Task", data: MaskedImages) -> NDArray[np.int64]:
    """A confusion matrix an image (n, K, K) of what gives scores (K, H, W); ModelError where they are NaN."""
    matrices = []
    for key, image, mask in zip(data.keys, data.images, data.masks, strict=True):
        scores = segmenter(image)
        if bool(torch.isnan(scores).any()):
            raise ModelError(f"the model gave NaN scores for pixels of {key}: check its weights")
        matrices.append(confusion(scores.argmax(0).numpy(), mask, len(task.classes)))
    return np.stack(matrices)


def trained_student(
    classifier: "Classifier", task: "Task", data: MaskedImages, *, student: Student, train: str, **options: Any
) -> "SegmentationStudent | MaskFormerStudent":
    """A student of another set; SourceError where that shares an image with the evaluated one."""
    from retroclip.training.maskformer import train_maskformer
    from retroclip.training.segmenter import train_segmenter

    learnt = load_masks(task, train)
    check_training(train, learnt, data)
    if student == "maskformer":
        return train_maskformer(classifier.encoder, task, learnt.images, learnt.masks, **options)
    return train_segmenter(classifier.encoder, task, learnt.images, learnt.masks, **options)


def class_parts(task: "Task") -> dict[str, Any]:
    """Which classes each figure is the mean of: all, and novel and base ones apart where the task has any."""
    if not task.novel:
        return {"miou": slice(None)}
    novel = np.isin(task.classes, task.novel)
    return {"miou": slice(None), "miou-novel": novel, "miou-base": ~novel}


def beside_untrained(
    result: Result, matrices: NDArray[np.int64], untrained: NDArray[np.int64], task: "Task", *, resamples: int
) -> Result:
    """The result with the untrained model's figures and the gains over them, resampled together."""
    ours, theirs, parts = class_iou(matrices.sum(0)), class_iou(untrained.sum(0)), class_parts(task)
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    draws = list(resample_counts(len(matrices), resamples, 0)) if resamples else []
    drawn = [class_iou(np.tensordot(c, matrices, 1)) for c in draws]
    drawn_untrained = [class_iou(np.tensordot(c, untrained, 1)) for c in draws]
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
        drawn = [class_iou(np.tensordot(c, matrices, 1)) for c in resample_counts(len(matrices), resamples, 0)]
        sampled = np.concatenate(drawn)
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
        missing_classes=[name for name, value in zip(task.classes, by_class, strict=True) if np.isnan(value)],
        rejected=data.rejected,
        data_hash=hash_samples(data.images, [hashlib.sha256(mask.tobytes()).hexdigest() for mask in data.masks]),
    )


def load_masks(task: "Task", dataset: str | Path, *, where: str | None = None) -> MaskedImages:
    """Read a source with masks for a task; images without one are counted.

    Mask values are named by the source (`pairs.mask_classes`), or else are the task's classes in order, 255 being none.
    Values whose name is in the task's `ignored` become 255. A mask of another size than its image, or one that can't be
    read, is rejected. Raises SourceError (no mask, over 10 % rejected), TaskError (a value that means no class).
    """
    from retroclip.pairs import Rejected, decode_image, mask_classes, read_pairs

    path, _, split = str(dataset).partition("#")
    data = MaskedImages(Path(path).stem, split or None)
    table, names = mask_table(task, mask_classes(dataset))
    for pair in read_pairs(dataset, where=where):
        if isinstance(pair, Rejected):
            data.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        if pair.image is None or pair.mask is None:
            data.without_mask += 1
            continue
        try:
            values = read_mask(pair.mask)
            size = decode_image(pair.image).size
        except BadImageError as error:
            data.rejected.append(f"{pair.key}: {error}")
            continue
        if values.shape != size[::-1]:
            shown = " x ".join(map(str, values.shape[::-1]))
            data.rejected.append(f"{pair.key}: a mask of {shown} for an image of {size[0]} x {size[1]} pixels")
            continue
        unknown = [int(value) for value in np.unique(values) if table[value] < 0]
        if unknown:
            shown = ", ".join(names.get(value, str(value)) for value in unknown[:NAMED_LABELS])
            raise TaskError(
                f"{dataset} has pixels of {shown}, which task {task.name!r} lacks: add them to its classes or `ignored`"
            )
        data.keys.append(pair.key)
        data.images.append(pair.image)
        data.masks.append(table[values].astype(np.uint16))
    if not data.images and not data.rejected:
        raise SourceError(f"{dataset} has no mask: segmentation needs a column `mask`, or a VOC folder's masks")
    if len(data.rejected) > MAX_REJECTED * (len(data) + len(data.rejected)):
        raise SourceError(f"{dataset}: {len(data.rejected)} images or masks can't be used, such as {data.rejected[0]}")
    return data


def read_mask(data: bytes) -> NDArray[np.integer]:
    """The values (H, W) of an encoded mask, a palette's indices as they are; BadImageError if it can't be read."""
    from retroclip.pairs import MAX_PIXELS

    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "BMP"))
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError("its mask exceeds the pixel limit")
        values = np.asarray(image)
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError(f"its mask can't be read: {' '.join(str(error).split())[:80]}") from None
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise BadImageError("its mask has colours instead of class indices")
    return values


def mask_table(task: "Task", names: dict[int, str] | None) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Class index of every mask value (65536,): 255 for ignored ones, −1 for values that mean no class of the task."""
    if len(task.classes) > IGNORE:
        raise TaskError(f"task {task.name!r} has {len(task.classes)} classes: segmentation takes at most {IGNORE}")
    table = np.full(65536, -1, np.int64)
    table[IGNORE] = IGNORE
    if names is None:
        table[: len(task.classes)] = np.arange(len(task.classes))
        return table, {}
    for value, name in names.items():
        if name in task.label_index:
            table[value] = task.label_index[name]
        elif name in task.ignored_index:
            table[value] = IGNORE
    return table, names
