"""Detections of one image after another, kept, counted and made a result: AP50 of all, novel and base classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from retroclip.errors import TaskError
from retroclip.evaluation.average_precision import Boxes, coco_average_precision
from retroclip.evaluation.boxes import BoxedImages
from retroclip.evaluation.regions import ap_interval
from retroclip.evaluation.result import Result

if TYPE_CHECKING:
    from retroclip.tasks import Task

SCORE, NMS, RESAMPLES = 1e-3, 0.5, 200
PER_IMAGE, LVIS_PER_IMAGE = 100, 300
AT_50 = np.array([0.5])


def most_detections(data: BoxedImages) -> int:
    """How many detections of an image count: COCO's 100, or 300 where only some classes were looked for (LVIS)."""
    return LVIS_PER_IMAGE if data.verified else PER_IMAGE


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


def concatenated(parts: Sequence[Boxes]) -> Boxes:
    """Detections of all images as one."""
    scores = [part.scores if part.scores is not None else np.ones(len(part)) for part in parts]
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label", "box")]
    return Boxes(arrays[0], arrays[1], arrays[2], np.concatenate(scores))


def summarise_detections(
    data: BoxedImages,
    task: "Task",
    found: Sequence[Boxes],
    chance: Sequence[Boxes],
    *,
    method: str,
    resamples: int = RESAMPLES,
) -> Result:
    """The result of detections, one `Boxes` an image; `chance` are those of the baseline.

    Of classes that nobody looked for in an image none counts there, and where a class was not searched to the end none
    is wrong (`BoxedImages.truth`): LVIS's federated annotation.
    """
    truth, n, classes = data.truth, len(data), len(task.classes)
    shape: dict[str, Any] = {"n_images": n, "n_classes": classes, "max_detections": most_detections(data)}
    novel = [i for i, name in enumerate(task.classes) if name in task.novel]
    parts = {"ap50": list(range(classes))}
    if novel:
        parts |= {"ap50-novel": novel, "ap50-base": [i for i in range(classes) if i not in novel]}
    joined, random = (data.only_asked(concatenated(each)) for each in (found, chance))
    ap, by_chance = (coco_average_precision(truth, each, **shape) for each in (joined, random))
    metrics = {name: ap.mean("ap50", own) for name, own in parts.items()} | {"ap": ap.mean()}
    if np.isnan(metrics["ap50"]):
        raise TaskError(f"{data.name} has no box of any class of task {task.name!r}")
    intervals = {}
    if resamples:
        for name, own in parts.items():
            chosen, seen = np.isin(truth.label, own), np.isin(joined.label, own)
            if np.isin(data.labels[~data.crowd], own).any():
                intervals[name] = ap_interval(
                    truth.select(chosen), joined.select(seen), **shape, resamples=resamples, thresholds=AT_50
                )
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
        options={
            "boxes": int((~data.crowd).sum()), "clipped": data.clipped, "ignored": data.ignored,
            "detections": len(joined),
        },
    )  # fmt: skip


def beside_untrained(
    result: Result,
    data: BoxedImages,
    task: "Task",
    found: Sequence[Boxes],
    untrained: Mapping[str, Sequence[Boxes]],
    chance: Sequence[Boxes],
    resamples: int,
) -> Result:
    """The result with the untrained model's figures and the paired gains over them.

    `zero-shot` sees the trained network's proposals and refined boxes, so that the gain over it is that of the scores
    alone (`gain-…`); on the windows of `grid` nothing is trained (`gain-over-grid-…`).
    """
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    for name, others in untrained.items():
        other = summarise_detections(data, task, others, chance, method=name, resamples=resamples)
        own = {} if other.interval is None else {"ap50": other.interval}
        metrics |= {f"{name}-{key}": value for key, value in other.metrics.items()}
        intervals |= {f"{name}-{key}": value for key, value in {**own, **other.intervals}.items()}
        prefix = "gain" if name == "zero-shot" else f"gain-over-{name}"
        for part in ("ap50-novel", "ap50"):
            if part in result.metrics:
                metrics[f"{prefix}-{part}"] = result.metrics[part] - other.metrics[part]
                if resamples:
                    intervals[f"{prefix}-{part}"] = paired_ap50(data, task, found, others, part, resamples)
    return result.model_copy(update={"metrics": metrics, "intervals": intervals})


def paired_ap50(
    data: BoxedImages, task: "Task", found: Sequence[Boxes], base: Sequence[Boxes], part: str, resamples: int
) -> tuple[float, float]:
    """95 % interval of the gain in AP50 over other detections of the same images, for all or the novel classes."""
    own = [i for i, name in enumerate(task.classes) if part == "ap50" or name in task.novel]
    parts = (data.truth, *(data.only_asked(concatenated(each)) for each in (found, base)))
    truth, ours, theirs = (each.select(np.isin(each.label, own)) for each in parts)
    return ap_interval(
        truth, ours, base=theirs, n_images=len(data), n_classes=len(task.classes), resamples=resamples,
        max_detections=most_detections(data), thresholds=AT_50,
    )  # fmt: skip
