"""Run a suite: many evaluations of one model, each kept as a file of its own, so that a killed run goes on."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retroclip.encoders import Encoder
from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, Result, compare, evaluate_retrieval, load_results, save_results
from retroclip.evaluation.protocols import model_for, run_protocol
from retroclip.memory import Memory
from retroclip.tasks import task_for
from retroclip.tasks.suite import Entry, Suite, find_dataset

Tell = Callable[[str], None]


def run_suite(
    encoder: Encoder,
    suite: Suite,
    data: Path,
    out: Path,
    *,
    methods: Sequence[str] = ("zero-shot",),
    memory: Memory | None = None,
    shots: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    tell: Tell = print,
) -> list[Result]:
    """Evaluate a model on every entry of a suite whose data is there; one result a task and method.

    Each is written to `out` as one JSON file when it is done, named by task, data, method and the model's fingerprint,
    and read from there by the next run under the same circumstances. Data that is not below `data` is named to `tell`
    and passed over; what fails becomes a result with `error` and is tried again by the next run.

    Raises SourceError where none of the suite's data is there, RetroclipError for an unknown method.
    """
    from retroclip.methods import get_method

    chosen = [get_method(name).name for name in methods]
    found = [(entry, dataset) for entry in suite.tasks if (dataset := _dataset(entry, data)) is not None]
    if missing := [entry.task for entry in suite.tasks if _dataset(entry, data) is None]:
        tell(f"not in {data}, and left out: {', '.join(missing)}")
    if not found:
        raise SourceError(
            f"{data} has no data of suite {suite.name!r}: put {suite.tasks[0].task}.parquet or a folder there"
        )
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for entry, dataset in found:
        for method in chosen:
            file = out / file_name(entry, dataset, method, encoder)
            asked = _circumstances(entry, dataset, method, encoder, memory, shots, seeds)
            result = _kept(file, asked)
            if result is None:
                result = _run(encoder, entry, dataset, data, method, memory, shots, seeds)
                result.options["suite"] = asked
                save_results([result], file)
                tell(_line(result))
            results.append(result)
    return results


def file_name(entry: Entry, dataset: str, method: str, encoder: Encoder) -> str:
    """The file of one evaluation: task, data set, method and the first digits of the model's fingerprint."""
    name = Path(dataset.partition("#")[0]).stem
    parts = [entry.task, *([name] if name.replace("_", "-") != entry.task else []), method, encoder.fingerprint[:8]]
    return "--".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts) + ".json"


def _dataset(entry: Entry, data: Path) -> str | None:
    if entry.dataset is None:
        return find_dataset(data, entry.task)
    path = str(data / entry.dataset)
    return path if Path(path).exists() or Path(path.rpartition("#")[0]).exists() else None


def _kept(file: Path, asked: dict[str, Any]) -> Result | None:
    """The finished result in a file, if it is of just this evaluation."""
    if not file.is_file():
        return None
    (result,) = load_results(file)
    return result if result.error is None and result.options.get("suite") == asked else None


def _circumstances(
    entry: Entry,
    dataset: str,
    method: str,
    encoder: Encoder,
    memory: Memory | None,
    shots: int | None,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What a kept result must agree with; files count as the same while their size and time of change are."""
    from retroclip.version import __version__

    paths = [Path(text.partition("#")[0]) for text in (dataset, entry.train) if text]
    found: dict[str, Any] = {
        "retroclip": __version__,
        "entry": entry.model_dump(),
        "files": [[str(p), *_stamp(p)] for p in paths],
        "task": _task_record(entry, dataset),
        "model": encoder.fingerprint,
        "precision": encoder.precision,
        "method": method,
        "memory": None if memory is None else [memory.id, memory.version],
        "shots": shots,
        "seeds": list(seeds),
    }
    return json.loads(json.dumps(found))


def _task_record(entry: Entry, dataset: str) -> Any:
    return None if entry.task == IMAGE_TEXT_RETRIEVAL else task_for(entry.task, dataset).model_dump(mode="json")


def _stamp(path: Path) -> list[int]:
    if not path.is_file():
        newest = max((file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()), default=0)
        return [0, newest]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _run(
    encoder: Encoder,
    entry: Entry,
    dataset: str,
    data: Path,
    method: str,
    memory: Memory | None,
    shots: int | None,
    seeds: Sequence[int],
) -> Result:
    """One evaluation by the task's own protocol; a failure is a result with `error`."""
    train = None if entry.train is None else str(data / entry.train)
    try:
        if entry.task == IMAGE_TEXT_RETRIEVAL:
            used = None if method == "zero-shot" else memory
            return evaluate_retrieval(encoder, dataset, where=entry.where, memory=used, method=method, seed=seeds[0])
        task = task_for(entry.task, dataset)
        if task.protocol != "classification":
            model = model_for(encoder, task, dataset, memory, method=method, where=entry.where, seed=seeds[0])
            return run_protocol(task.protocol, model, task, dataset, where=entry.where, method=method)
        given: dict[str, Any] = {"where": entry.where, "train": train, "shots": shots, "seeds": seeds}
        return compare(encoder, task, dataset, memory, methods=[method], **given)[-1]
    except RetroclipError as error:
        name = Path(dataset.partition("#")[0]).stem
        return Result(
            task=entry.task, dataset=name, n=0, method=method, model=encoder.name, metric="", error=str(error)
        )


def _line(result: Result) -> str:
    if result.error is not None:
        return f"{result.task}, {result.method}: failed: {result.error}"
    return f"{result.task}, {result.method}: {100 * (result.value or 0.0):.1f} % ({result.metric}, {result.n:,} images)"
