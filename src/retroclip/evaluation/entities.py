"""Seen and unseen entities among one list of candidates: the harmonic mean of their accuracies (OVEN)."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retroclip.classifiers import Classifier
from retroclip.errors import TaskError
from retroclip.evaluation.bootstrap import RESAMPLES, percentile_interval, resample_counts
from retroclip.evaluation.classification import answer
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result
from retroclip.evaluation.samples import load_samples

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task


def harmonic_mean(seen: NDArray[np.floating] | float, unseen: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """2ab / (a + b) of two accuracies, 0 where both are 0; arrays element by element."""
    total = np.asarray(seen) + np.asarray(unseen)
    return np.where(total > 0, 2 * np.asarray(seen) * np.asarray(unseen) / np.where(total > 0, total, 1), 0.0)


@register_protocol("entities")
def evaluate_entities(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """Top-1 over all of the task's classes, for images of its `novel` (unseen) classes and of the others apart.

    `value` is the harmonic mean. The list of candidates may be long: scores of a part of the images, and prompts of a
    part of the classes, are held at a time. Baseline: chance over all classes.
    Raises TaskError where one of the two halves has no image or an image several labels, else as `evaluate`.
    """
    if not task.novel:
        raise TaskError(f"task {task.name!r} names no unseen classes: list them under `novel`")
    start = time.perf_counter()
    samples = load_samples(task, dataset, where=where)
    if samples.several:
        raise TaskError(f"{samples.dataset} has several labels an image: seen and unseen classes need one")
    outcome = answer(model, task, samples).outcome
    unseen = np.isin(np.array(task.classes)[samples.labels], task.novel)
    if unseen.all() or not unseen.any():
        raise TaskError(f"{samples.dataset} has images of {'unseen' if unseen.all() else 'seen'} classes only")
    halves = {"seen": ~unseen, "unseen": unseen}
    metrics = {name: float(outcome.correct[rows].mean()) for name, rows in halves.items()}
    metrics["harmonic-mean"] = float(harmonic_mean(metrics["seen"], metrics["unseen"]))
    intervals = {}
    if resamples:
        chunks = [
            [(draws @ (outcome.correct & rows)) / np.maximum(draws @ rows, 1) for rows in halves.values()]
            for draws in resample_counts(len(samples), resamples, 0)
        ]
        drawn = dict(zip(halves, np.concatenate(chunks, axis=1), strict=True))
        drawn["harmonic-mean"] = harmonic_mean(drawn["seen"], drawn["unseen"])
        intervals = {name: percentile_interval(values) for name, values in drawn.items()}
    encoder = model.encoder if isinstance(model, Classifier) else model
    seconds = time.perf_counter() - start
    return Result(
        task=task.name,
        dataset=samples.dataset,
        split=samples.split,
        n=len(samples),
        protocol="entities",
        method=method or "zero-shot",
        model="",
        metric="harmonic-mean",
        value=metrics["harmonic-mean"],
        interval=intervals.pop("harmonic-mean", None),
        metrics=metrics | {"top1": outcome.value("top1")},
        intervals=intervals,
        baseline="chance over all classes",
        baselines=dict.fromkeys(metrics, 1 / len(task.classes)),
        templates=list(task.templates),
        missing_classes=samples.missing_classes,
        rejected=list(samples.rejected),
        data_hash=samples.hash,
        **mistakes(count_answers([outcome]), task.classes),
        outcomes=[outcome],
    ).made_by(encoder, seconds=seconds)
