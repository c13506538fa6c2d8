"""Classification: an encoder (zero-shot head from the task) or a classifier, on labelled images."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.classifiers import Classifier, zero_shot
from retroclip.errors import TaskError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval
from retroclip.evaluation.leakage import NEAR, memory_record, shielded
from retroclip.evaluation.metrics import MULTI_LABEL, expected_calibration_error
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Result
from retroclip.evaluation.samples import Samples, load_samples

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.fusion import MemoryEncoder
    from retroclip.pairs import LabelledSet
    from retroclip.tasks import Task

RANKING_METRICS = (*MULTI_LABEL, "roc-auc")
LOGITS = 2**22  # held at a time: 16 MB, and their softmax in double precision


@dataclass(frozen=True)
class Answered:
    """An outcome and the seconds that embedding and classifying took (shared embeddings counted as if computed)."""

    outcome: Outcome
    seconds: float


def evaluate(
    model: "Encoder | Classifier",
    task: "Task | str",
    dataset: "LabelledSet | Samples | str | Path",
    *,
    where: str | None = None,
    method: str | None = None,
    base: "Encoder | None" = None,
    near_threshold: float = NEAR,
    resamples: int = RESAMPLES,
    batch_size: int = 64,
) -> Result:
    """Evaluate a model on labelled images.

    An `Encoder` gets the task's zero-shot head; a `Classifier` must have the task's classes in its order. Where the
    model's images are embedded by `base`, embeddings kept in a `Samples` are used again. Unreadable images are left
    out and named in `rejected`. From an encoder that consults a memory or a reference set those pairs are hidden whose
    image is nearer to an evaluated one than `near_threshold`. `resamples=0` leaves out the interval.

    Raises SourceError (empty set, over 10 % unreadable), TaskError (labels or classes that don't fit the task),
    ModelError (NaN scores).

    >>> 0 <= evaluate(encoder, task, "labelled/").value <= 1
    True
    """
    task = as_task(task)
    samples = load_samples(task, dataset, where=where)
    encoder = model.encoder if isinstance(model, Classifier) else model
    clean, excluded = shielded(encoder, [samples], threshold=near_threshold)
    if isinstance(model, Classifier):
        model = copy.copy(model)
        model.encoder = clean
    else:
        model = clean
    answered = answer(model, task, samples, base=base, batch_size=batch_size)
    name = method or (model.name if isinstance(model, Classifier) else "zero-shot")
    return summarise(model, task, samples, [answered.outcome], method=name, resamples=resamples).model_copy(
        update={
            "seconds": answered.seconds,
            "predict_seconds": answered.seconds,
            **memory_record(clean, excluded, near_threshold),
        }
    )


def answer(
    model: "Encoder | Classifier",
    task: "Task",
    samples: Samples,
    *,
    base: "Encoder | None" = None,
    batch_size: int = 64,
) -> Answered:
    """Embed and classify every sample. Images under `base` are embedded once for all models that sit on it."""
    start = time.perf_counter()
    classifier = head(model, task)
    shared = shared_base(classifier.encoder, samples, base)
    saved = samples.base_seconds if shared is not None and samples.has_base(shared) else 0.0
    embeddings = embed(classifier.encoder, samples, shared=shared, batch_size=batch_size)
    outcome = classified(classifier, embeddings, samples.labels, keep_scores=task.metric in RANKING_METRICS)
    return Answered(outcome, time.perf_counter() - start + saved)


def classified(
    classifier: "Classifier",
    embeddings: torch.Tensor,
    labels: NDArray[Any],
    *,
    keep_scores: bool,
    chunk: int | None = None,
) -> Outcome:
    """The outcome of embeddings `(n, d)`, scored `chunk` rows at a time, by default so many that `LOGITS` are held."""
    rows = chunk or max(1, LOGITS // len(classifier.classes))
    parts = []
    for start in range(0, len(embeddings), rows):
        with torch.no_grad():
            logits = classifier(embeddings[start : start + rows]).float().cpu().numpy()
        parts.append(Outcome.from_logits(logits, labels[start : start + rows], keep_scores=keep_scores))
    return Outcome.joined(parts)


def embed(encoder: "Encoder", samples: Samples, *, shared: "Encoder | None", batch_size: int) -> torch.Tensor:
    """Embeddings `(n, d)` of the samples; those under `shared` are kept, and only refined by a consulted memory."""
    if shared is None:
        return samples.embed(encoder, batch_size=batch_size)
    kept = samples.embed_base(shared, batch_size=batch_size)
    return kept if shared is encoder else cast("MemoryEncoder", encoder).refine_images(kept)


def shared_base(encoder: "Encoder", samples: Samples, base: "Encoder | None") -> "Encoder | None":
    """The encoder under which images are embedded once: this one, or that beneath it where it consults a memory.

    None where that is neither `base` nor the one whose embeddings the samples keep.
    """
    beneath = cast("MemoryEncoder", encoder).base if hasattr(encoder, "refine_images") else encoder
    return beneath if beneath is base or samples.has_base(beneath) else None


def head(model: "Encoder | Classifier", task: "Task") -> "Classifier":
    """The model itself if it is a classifier over the task's classes, else the task's zero-shot head on it."""
    if not isinstance(model, Classifier):
        return zero_shot(model, task)
    if list(model.classes) != list(task.classes):
        raise TaskError(
            f"the {len(model.classes)} classes of the classifier are not the {len(task.classes)} of task {task.name!r}"
            " in their order: make it for this task"
        )
    return model


def as_task(task: "Task | str | Path") -> "Task":
    """A task as given, or by catalogue name or YAML file."""
    if isinstance(task, str | Path):
        from retroclip.tasks import Task

        return Task.load(task)
    return task


def summarise(
    model: "Encoder | Classifier",
    task: "Task",
    samples: Samples,
    outcomes: list[Outcome],
    *,
    method: str,
    resamples: int = RESAMPLES,
) -> Result:
    """The result of one method from its outcomes, one a seed; figures are means over them. Seconds are left at 0."""
    encoder = model.encoder if isinstance(model, Classifier) else model
    values = [outcome.value(task.metric) for outcome in outcomes]
    if np.isnan(values).any():
        raise TaskError(f"{task.metric} can't be computed on {samples.dataset}: only one class has images there")
    per_class = np.mean([outcome.per_class() for outcome in outcomes], axis=0)
    present = np.flatnonzero(~np.isnan(per_class))
    intervals = {}
    if resamples:
        for metric in {task.metric, "top1"}:
            intervals[metric] = bootstrap_interval(outcomes, metric, resamples=resamples)
    return Result(
        task=task.name,
        dataset=samples.dataset,
        split=samples.split,
        n=len(samples),
        method=method,
        model=str(getattr(encoder, "name", "")),
        metric=task.metric,
        value=float(np.mean(values)),
        interval=intervals.get(task.metric),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        top1=_mean([outcome.value("top1") for outcome in outcomes]),
        top1_interval=intervals.get("top1"),
        metrics=side_metrics(outcomes, task.metric),
        per_class={task.classes[index]: float(per_class[index]) for index in present},
        **mistakes(count_answers(outcomes), task.classes),
        templates=list(task.templates),
        missing_classes=samples.missing_classes,
        rejected=list(samples.rejected),
        unlabelled=samples.unlabelled,
        fingerprint=getattr(encoder, "fingerprint", None),
        precision=getattr(encoder, "precision", None),
        data_hash=samples.hash,
        outcomes=outcomes,
    )


def side_metrics(outcomes: list[Outcome], metric: str) -> dict[str, float]:
    """The task's own metric and, beside it, top1, top5, mean-per-class and calibration error, means over the seeds."""
    several = outcomes[0].labels.ndim == 2
    beside = MULTI_LABEL if several else ("mean-per-class",)
    found = {name: _mean([o.value(name) for o in outcomes]) for name in (metric, "top1", *beside)}
    found["top5"] = _mean([o.top5 for o in outcomes])
    found["ece"] = _mean([expected_calibration_error(o.confidence, o.correct) for o in outcomes])
    return found


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
