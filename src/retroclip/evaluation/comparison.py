"""Every method on one problem: the same images, the same memory, one table."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retroclip.errors import RetroclipError
from retroclip.evaluation.bootstrap import RESAMPLES, paired_gain
from retroclip.evaluation.circumstances import circumstances
from retroclip.evaluation.classification import answer, as_task, summarise
from retroclip.evaluation.leakage import NEAR, context_record, near_sets, shielded, without
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Forgetting, Result
from retroclip.evaluation.runs import OnModel, Run, RunCache, run_method
from retroclip.evaluation.samples import Samples, load_samples
from retroclip.evaluation.shots import left_out, without_evaluated
from retroclip.evaluation.training_set import data_name

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.memory import Memory
    from retroclip.methods import Method, MethodContext
    from retroclip.pairs import LabelledSet
    from retroclip.tasks import Task

logger = logging.getLogger(__name__)
BASE = "zero-shot"


def compare(
    encoder: "Encoder",
    task: "Task | str | Path",
    dataset: "LabelledSet | Samples | str | Path",
    memory: "Memory | None",
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    where: str | None = None,
    also: Sequence[tuple["Task | str", "LabelledSet | Samples | str | Path"]] = (),
    near_threshold: float = NEAR,
    resamples: int = RESAMPLES,
    train: "LabelledSet | Samples | str | Path | None" = None,
    shots: int | None = None,
    cache: str | Path | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_model: OnModel | None = None,
) -> list[Result]:
    """Run methods (default: all of `methods.default_methods()`) on one task; one result each, zero-shot always first.

    Trained methods run once for each of `seeds`. `also` names further (task, dataset) on which every model that is an
    encoder is evaluated beside its base (`Result.forgetting`). Methods that learn from labelled images (with `train`,
    they run by default as well) get `shots` a class of it, all for None, drawn by the seed; evaluated images and their
    near-duplicates are left out of it. The method "default" is `methods.default_method` of the memory as all methods
    see it, near-duplicates hidden. `options` are described at `MethodContext`. With a folder as `cache`, finished
    runs are kept there and a killed comparison goes on from them. `on_result` gets each row when it is done,
    `on_model(method, seed, model)` each model that was built (not those taken from the cache). `resamples=0` leaves out
    the intervals.

    A method that fails becomes a row with `error`. Raises only for what concerns all rows: labels that don't fit the
    task, an empty data set, a memory made by another model, unknown method names, no seed.

    >>> results = compare(encoder, task, "labelled/", memory, methods=["primed"])
    >>> [result.method for result in results]
    ['zero-shot', 'primed']
    """
    from retroclip.methods import DEFAULT, get_method, pick_method

    if not len(seeds):
        raise RetroclipError("there is no seed to run the trained methods with: name at least one, such as seeds=[0]")
    task = as_task(task)
    names = method_names(methods, learn=train is not None)
    for name in {*names} - {DEFAULT}:
        get_method(name)  # refused before anything is embedded
    samples = load_samples(task, dataset, where=where)
    others = [(other, load_samples(other, data)) for other, data in ((as_task(t), d) for t, d in also)]
    sets = [data for _, data in others]
    context = prepare_context(encoder, task, samples, memory, also=sets, options=options, near_threshold=near_threshold)
    if train is not None:
        pool = without_evaluated(load_samples(task, train), [samples, *sets], context.encoder, threshold=near_threshold)
        context.train, context.shots = pool, shots
    chosen = dict.fromkeys(pick_method(name, context.memory, task) for name in names)
    runs = RunCache(Path(cache) if cache is not None else None, circumstances(context, samples, others))
    elsewhere = [answer(context.encoder, other, data, base=context.encoder).outcome for other, data in others]
    results: list[Result] = []
    controls: list[Result] = []
    for method in chosen:
        result, finished = _row(
            method, context, samples, others=others, seeds=seeds, cache=runs, on_model=on_model, resamples=resamples
        )
        if finished:
            result = _with_gains(result, results[0] if results else result, resamples)
            if method.trained and controls:
                result = _with_control(result, max(controls, key=lambda control: control.value or 0.0), resamples)
            elif method.needs_memory and not method.trained:
                controls.append(result)
        if finished and finished[0].elsewhere:
            result.forgetting = _forgetting(finished, others, elsewhere, resamples)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def method_names(methods: Sequence[str] | None, *, learn: bool = False) -> list[str]:
    """The names and shell patterns asked for as names, once each, with zero-shot first: every gain is over it.

    By default those of `default_methods`, and with `learn` those that learn from labelled images, which without it no
    pattern matches.
    """
    from retroclip.methods import default_methods, get_method, list_methods

    learning = [name for name in list_methods() if get_method(name).needs_train]
    if methods is None:
        return default_methods() + (learning if learn else [])
    # A name that matches nothing stays, so that it is refused by name.
    found = [(name, given) for given in methods for name in list_methods(given) or [given]]
    usable = [name for name, given in found if learn or name == given or name not in learning]
    return list(dict.fromkeys([BASE, *usable]))


def prepare_context(
    encoder: "Encoder",
    task: "Task",
    samples: Samples,
    memory: "Memory | None",
    *,
    also: Sequence[Samples] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    near_threshold: float = NEAR,
) -> "MethodContext":
    """What methods may use for this evaluation set: the memory without near-duplicates of its images and of `also`'s.

    The same holds for the memory or reference set that the encoder itself consults, if it does. Raises MemoryStoreError
    for a memory made by another model.
    """
    from retroclip.methods import MethodContext

    given = {name: dict(values) for name, values in (options or {}).items()}
    if memory is not None:
        memory.check_encoder(encoder)
    sets = [samples, *also]
    encoder, excluded = shielded(encoder, sets, threshold=near_threshold)
    if memory is not None:
        excluded = near_sets(memory, encoder, sets, threshold=near_threshold)
        memory = without(memory, excluded)
    return MethodContext(
        encoder=encoder,
        memory=memory,
        task=task,
        options=given,
        excluded_ids=excluded,
        near_threshold=near_threshold,
    )


def _row(
    method: "Method",
    context: "MethodContext",
    samples: Samples,
    *,
    others: Sequence[tuple["Task", Samples]],
    seeds: Sequence[int],
    cache: RunCache,
    on_model: OnModel | None,
    resamples: int,
) -> tuple[Result, list[Run]]:
    """One method's result with its finished runs; a failure gives a result with `error` and no run."""
    finished: list[Run] = []
    seeds = list(seeds) if method.trained else [context.seed]
    try:
        for seed in seeds:
            run = cache.get(method.name, seed)
            if run is None:
                run = run_method(method, context.for_run(seed), samples, also=others, on_model=on_model)
                cache.put(method.name, seed, run)
            finished.append(run)
        outcomes = [run.outcome for run in finished]
        result = summarise(context.encoder, context.task, samples, outcomes, method=method.name, resamples=resamples)
    except Exception as error:
        # One method's failure must not cost the hours that the others took.
        result, finished = _failed(method, context, samples, error), []
    return _with_costs(result, method, context, finished, seeds), finished


def _failed(method: "Method", context: "MethodContext", samples: Samples, error: Exception) -> Result:
    expected = isinstance(error, RetroclipError)
    if not expected:
        logger.warning("method %s failed", method.name, exc_info=error)
    return Result(
        task=context.task.name,
        dataset=samples.dataset,
        split=samples.split,
        n=len(samples),
        method=method.name,
        model=context.encoder.name,
        metric=context.task.metric,
        error=str(error) if expected else f"{type(error).__name__}: {error}",
    )


def _with_costs(
    result: Result, method: "Method", context: "MethodContext", runs: Sequence[Run], seeds: Sequence[int]
) -> Result:
    fit, predict = ([getattr(run, name) for run in runs] or [0.0] for name in ("fit_seconds", "predict_seconds"))
    return result.model_copy(
        update={
            "fit_seconds": float(np.mean(fit)),
            "predict_seconds": float(np.mean(predict)),
            "seconds": float(np.mean(fit) + np.mean(predict)),
            "trained_parameters": runs[0].trained_parameters if runs else 0,
            "seed": seeds[0],
            "seeds": list(seeds) if method.trained else [],
            "history": runs[0].history if runs else [],
            "options": context.options_for(method.name) | _learnt_from(method, context, runs),
            **context_record(context),
        }
    )


def _learnt_from(method: "Method", context: "MethodContext", runs: Sequence[Run]) -> dict[str, Any]:
    """Which labelled images a method learnt from, and what each run chose on them."""
    train = context.train
    if train is None or not method.needs_train:
        return {}
    chosen = [run.chosen for run in runs if run.chosen]
    shots = "full" if context.shots is None else context.shots
    found: dict[str, Any] = {"train": data_name(train.dataset, train.split), "train_hash": train.hash, "shots": shots}
    found |= left_out(train)
    return found | ({"chosen": chosen} if chosen else {})


def _with_gains(result: Result, base: Result, resamples: int) -> Result:
    """Gains over zero-shot in points, of the task's metric and of top-1; nothing where zero-shot itself failed."""
    if not base.outcomes or result is base:
        return result
    gain, interval = result.gain_over(base, resamples=resamples)
    if result.metric == "top1":
        top1, top1_interval = gain, interval
    else:
        top1, top1_interval = result.gain_over(base, "top1", resamples=resamples)
    update = {"gain": gain, "gain_interval": interval, "top1_gain": top1, "top1_gain_interval": top1_interval}
    return result.model_copy(update=update)


def _with_control(result: Result, control: Result, resamples: int) -> Result:
    """The gain over the best method without training so far, in points of the task's metric."""
    gain, interval = result.gain_over(control, resamples=resamples)
    return result.model_copy(
        update={"control": control.method, "control_gain": gain, "control_gain_interval": interval}
    )


def _forgetting(
    runs: Sequence[Run], others: Sequence[tuple["Task", Samples]], base: Sequence[Outcome], resamples: int
) -> list[Forgetting]:
    """A customized model beside its base on every other task, means over the seeds."""
    rows = []
    for position, (task, data) in enumerate(others):
        outcomes = [run.elsewhere[position] for run in runs]
        change, interval = paired_gain(outcomes, [base[position]], task.metric, resamples=resamples)
        rows.append(
            Forgetting(
                task=task.name,
                dataset=data_name(data.dataset, data.split),
                metric=task.metric,
                n=len(data),
                base=base[position].value(task.metric),
                value=float(np.mean([outcome.value(task.metric) for outcome in outcomes])),
                change=change,
                interval=interval,
            )
        )
    return rows
