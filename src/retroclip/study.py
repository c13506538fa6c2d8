"""A comparison with everything around it: results written down, and the report that shows what stands behind them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retroclip.encoders import Encoder
from retroclip.errors import RetroclipError
from retroclip.evaluation import Result, Samples, compare, load_samples, prepare_context, save_results
from retroclip.memory import Memory
from retroclip.methods import MethodContext
from retroclip.pairs import LabelledSet
from retroclip.report import (
    Report,
    collect_confused,
    collect_examples,
    collect_retrieved,
    count_changes,
    spread,
    summarise_memory,
    write_report,
)
from retroclip.report.figures import duration, percent, points
from retroclip.tasks import Task

SHOWN_CLASSES = 6
SHOWN_WRONG = 2

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """What a study leaves: one result a method, and the HTML page."""

    results: list[Result]
    report: Path


def run_study(
    encoder: Encoder,
    task: Task,
    dataset: LabelledSet | str | Path,
    memory: Memory,
    out: Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    also: Sequence[tuple[Task, LabelledSet | str | Path]] = (),
    where: str | None = None,
    train: LabelledSet | str | Path | None = None,
    shots: int | None = None,
    frame: Report | None = None,
    tell: Tell = print,
) -> Study:
    """Compare methods and write `results.json` and `report.html` to `out`; the arguments are those of `compare`.

    Finished runs are kept in `out/runs`, so that a killed study, called again, goes on after the last of them. `frame`
    gives the report's title, introduction and notes; `tell` gets a line for every method that is done. RetroclipError
    when all methods failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    samples = load_samples(task, dataset, where=where)
    others = [(other, load_samples(other, data)) for other, data in also]
    results = compare(
        encoder,
        task,
        samples,
        memory,
        methods=methods,
        seeds=seeds,
        options=options,
        also=others,
        train=train,
        shots=shots,
        cache=out / "runs",
        on_result=lambda result: tell(summary_line(result)),
    )
    raise_if_all_failed(results)
    save_results(results, out / "results.json")
    context = prepare_context(encoder, task, samples, memory, options=options, also=[data for _, data in others])
    report = evidence(frame or Report(results=[]), results, samples, context)
    report = replace(report, memories=[summarise_memory(memory, task, name=memory.path.name)])
    return Study(results, write_report(report, out / "report.html"))


def raise_if_all_failed(results: Sequence[Result]) -> None:
    """RetroclipError with the first reason when no method gave a figure."""
    if all(result.error is not None for result in results):
        raise RetroclipError(f"every method failed; {results[0].method}: {results[0].error}")


def summary_line(result: Result) -> str:
    """One method on one line, for those who wait."""
    if result.error is not None:
        return f"{result.method}: failed: {result.error}"
    gain = f" ({points(result.gain)})" if result.gain is not None else ""
    return f"{result.method}: {percent(result.value)} %{gain} in {duration(result.seconds * max(1, len(result.seeds)))}"


def evidence(frame: Report, results: Sequence[Result], samples: Samples, context: MethodContext) -> Report:
    """The frame filled: examples and mistakes of the best method, and retrieved pairs of some classes."""
    base, memory, task = results[0], context.memory, context.task
    assert memory is not None
    best = max((r for r in results[1:] if r.outcomes), key=lambda r: r.value or 0.0, default=None)
    examples, changes = [], None
    if base.outcomes and best is not None:
        examples = collect_examples(base, best, samples, memory, samples.embed_base(context.encoder), wrong=SHOWN_WRONG)
        changes = count_changes(base, best)
    shown = best or (base if base.outcomes else None)
    return replace(
        frame,
        results=results,
        examples=examples,
        changes=changes,
        confused=collect_confused(shown, samples) if shown is not None else (),
        examples_method=best.method if best is not None else "",
        retrieved=collect_retrieved(context.retrieved, task, spread(task.classes, SHOWN_CLASSES)),
    )
