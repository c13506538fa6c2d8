"""A protocol with what a method makes of a memory: one run a seed, and the memory among the result's circumstances."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retroclip.errors import RetroclipError
from retroclip.evaluation.image_text import TASK_NAME as IMAGE_TEXT_RETRIEVAL
from retroclip.evaluation.image_text import evaluate_retrieval
from retroclip.evaluation.leakage import context_record
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.protocols import (
    checked_options,
    draws,
    get_protocol,
    own_options,
    reads_patches,
    run_protocol,
    unread,
)
from retroclip.evaluation.result import Result

FIGURES = ("value", "top1", "seconds", "fit_seconds", "predict_seconds")

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.memory import Memory
    from retroclip.methods import Method, MethodContext
    from retroclip.tasks import Task


def evaluate_protocol(
    name: str,
    encoder: "Encoder",
    task: "Task",
    dataset: str | Path,
    memory: "Memory | None" = None,
    *,
    method: str = "zero-shot",
    where: str | None = None,
    seeds: Sequence[int] = (0,),
    options: Mapping[str, Any] | None = None,
) -> Result:
    """Evaluate a method by a protocol; where something is trained or drawn, once for each of `seeds`.

    The method "default" is `methods.default_method`. A seed among the `options` goes before `seeds`. Near-duplicates of
    the data set's images are hidden from the memory, and counted. Figures are means over the seeds (`mean_of_runs`).
    Raises RetroclipError as `run_protocol`, and for a method that the protocol has no use for, before anything is
    trained.
    """
    from retroclip.methods import pick_method

    chosen, given = refuse_probes(pick_method(method, memory, task, name), name), dict(options or {})
    method = chosen.name
    checked = checked_options(name, get_protocol(name), given)
    if reads_patches(name, checked) and (not chosen.dense or getattr(encoder, "base", None) is not None):
        raise unread(name, method if not chosen.dense else encoder.name)
    if name == "segmentation" and checked.get("train") is not None and method != "zero-shot":
        raise RetroclipError(f"{method} has no part in training for segmentation: leave out --method and --memory")
    seeds = [checked["seed"]] if "seed" in checked else seeds
    drawn, context = draws(name, checked), None
    if not (method == "zero-shot" and memory is None and getattr(encoder, "consults", None) is None):
        own = own_options(get_protocol(name))
        frames = checked.get("frames", own["frames"][1]) if "frames" in own else None
        context = context_for(encoder, task, dataset, memory, where=where, frames=frames)

    def run(seed: int) -> Result:
        model = encoder if context is None else chosen(context.for_run(seed))
        own = given | {"seed": seed} if drawn else given
        return run_protocol(name, model, task, dataset, where=where, method=method, options=own)

    result = once_a_seed(run, seeds, drawn=drawn or chosen.trained, classes=task.classes)
    return result if context is None else result.model_copy(update=context_record(context))


def evaluate_captions(
    encoder: "Encoder",
    dataset: str | Path,
    memory: "Memory | None" = None,
    *,
    method: str = "zero-shot",
    where: str | None = None,
    seeds: Sequence[int] = (0,),
) -> Result:
    """Image-text retrieval; where the method is trained, once for each of `seeds` (`mean_of_runs`).

    "default" is `methods.default_method`.
    """
    from retroclip.methods import pick_method

    chosen = refuse_probes(pick_method(method, memory, protocol=IMAGE_TEXT_RETRIEVAL), IMAGE_TEXT_RETRIEVAL)
    used = None if chosen.name == "zero-shot" else memory

    def run(seed: int) -> Result:
        return evaluate_retrieval(encoder, dataset, where=where, memory=used, method=chosen.name, seed=seed)

    return once_a_seed(run, seeds, drawn=chosen.trained)


def refuse_probes(method: "Method", protocol: str) -> "Method":
    """The method; RetroclipError for one that learns from labelled images, which only classification hands out."""
    if method.needs_train:
        raise RetroclipError(f"{method.name} learns from labelled images, which is for classification, not {protocol}")
    return method


def context_for(
    encoder: "Encoder",
    task: "Task",
    dataset: str | Path,
    memory: "Memory | None",
    *,
    where: str | None = None,
    frames: int | None = None,
) -> "MethodContext":
    """What methods may use: the memory (and what the encoder consults) without near-duplicates of the images.

    With `frames` the images are so many of each clip.
    """
    from retroclip.evaluation.comparison import prepare_context
    from retroclip.evaluation.samples import Samples

    keys, images = _images(dataset, where) if frames is None else _frames(dataset, where, frames)
    samples = Samples(str(dataset), None, keys, images, np.zeros(len(images), np.int64), list(task.classes))
    return prepare_context(encoder, task, samples, memory)


def _images(dataset: str | Path, where: str | None) -> tuple[list[str], list[bytes]]:
    from retroclip.pairs import Rejected, read_pairs

    pairs = [pair for pair in read_pairs(dataset, where=where) if not isinstance(pair, Rejected) and pair.image]
    return [pair.key for pair in pairs], [cast(bytes, pair.image) for pair in pairs]


def _frames(dataset: str | Path, where: str | None, count: int) -> tuple[list[str], Any]:
    from retroclip.evaluation.clips import Frames, load_clips

    frames = Frames(load_clips(dataset, where=where, frames=count))
    return [str(position) for position in range(len(frames))], frames


def once_a_seed(
    run: Callable[[int], Result], seeds: Sequence[int], *, drawn: bool, classes: Sequence[str] = ()
) -> Result:
    """The mean of a run a seed (`mean_of_runs`); where nothing is `drawn`, a single run, which names no seed."""
    if not len(seeds):
        raise RetroclipError("there is no seed to run with: name at least one, such as seeds=[0]")
    if not drawn:
        return run(seeds[0])
    return mean_of_runs([run(seed) for seed in seeds], seeds, classes)


def mean_of_runs(runs: Sequence[Result], seeds: Sequence[int], classes: Sequence[str] = ()) -> Result:
    """Several runs of one evaluation as one result: means of the figures, `sd` of the value, the seeds.

    The ends of an interval are the means of the runs' ends: no narrower than that of the mean, as a rule. Confusions
    are means, too, and left out where the runs don't hold their answers. An option that differs between runs is a list.
    """
    first = runs[0]
    if len(runs) == 1:
        return first.model_copy(update={"seed": seeds[0]})
    outcomes = [outcome for each in runs for outcome in each.outcomes]
    counted = first.class_counts and len(outcomes) == len(runs)
    update: dict[str, Any] = {name: _mean([getattr(each, name) for each in runs]) for name in FIGURES}
    for name in ("metrics", "baselines", "per_class"):
        parts = [getattr(each, name) for each in runs]
        update[name] = {key: _mean([part.get(key) for part in parts]) for key in parts[0]}
    for name in ("interval", "top1_interval"):
        update[name] = _mean_interval([getattr(each, name) for each in runs])
    update["intervals"] = {key: _mean_interval([each.intervals[key] for each in runs]) for key in first.intervals}
    update |= mistakes(count_answers(outcomes), classes) if counted else {"confusions": []}
    return first.model_copy(
        update=update
        | {
            "sd": float(np.std([each.value or 0.0 for each in runs], ddof=1)),
            "seed": seeds[0],
            "seeds": list(seeds),
            "options": _options(runs),
            "outcomes": outcomes if len(outcomes) == len(runs) else [],
        }
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _mean_interval(intervals: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [each for each in intervals if each is not None]
    if len(known) < len(intervals):
        return None
    low, high = np.mean(known, axis=0)
    return float(low), float(high)


def _options(runs: Sequence[Result]) -> dict[str, Any]:
    merged = {key: [each.options.get(key) for each in runs] for key in runs[0].options if key != "seed"}
    return {key: own[0] if all(other == own[0] for other in own) else own for key, own in merged.items()}
