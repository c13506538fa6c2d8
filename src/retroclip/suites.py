"""Run a suite: many evaluations of one model, each kept as a file of its own, so that a killed run goes on."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from retroclip.encoders import Encoder
from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, Result, compare, load_results, save_results
from retroclip.evaluation.circumstances import OF_MASKS
from retroclip.evaluation.protocol_runs import evaluate_captions, evaluate_protocol
from retroclip.evaluation.protocols import takes
from retroclip.memory import Memory
from retroclip.methods import DEFAULT, get_method
from retroclip.pairs import resolve
from retroclip.tasks import Task, task_for
from retroclip.tasks.suite import Entry, Suite, find_dataset

Tell = Callable[[str], None]
FIRST_FIELDS = ("task", "dataset", "train", "where")


def run_suite(
    encoder: Encoder,
    suite: Suite,
    data: Path,
    out: Path,
    *,
    methods: Sequence[str] = (DEFAULT,),
    memory: Memory | None = None,
    shots: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    tell: Tell = print,
) -> list[Result]:
    """Evaluate a model on every entry of a suite whose data is there; one result a task and method.

    Where no `methods` are named, each entry has `methods.default_method`'s, known only when its data is read: so the
    file is called after "default", or without a memory after zero-shot.
    Each is written to `out` as one JSON file when it is done (`file_name`), and read from there by the next run under
    the same circumstances. `shots` are for methods that learn from an entry's `train`; other protocols take that as
    their option `train`, and run once for each of `seeds` then. Data that is not below `data` is named to `tell`
    and passed over; what fails becomes a result with `error` and is tried again by the next run.

    Raises SourceError where none of the suite's data is there, RetroclipError for an unknown method.
    """
    methods = ["zero-shot" if name == DEFAULT and memory is None else name for name in methods]
    learning = {name for name in methods if name != DEFAULT and get_method(name).needs_train}
    found = [(entry, dataset) for entry in suite.tasks if (dataset := _dataset(entry, data)) is not None]
    if missing := [entry.task for entry in suite.tasks if _dataset(entry, data) is None]:
        tell(f"not in {data}, and left out: {', '.join(missing)}")
    if not found:
        raise SourceError(
            f"{data} has no data of suite {suite.name!r}: put {suite.tasks[0].task}.parquet or a folder there"
        )
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    names: set[str] = set()
    for entry, dataset in found:
        for method in methods:
            own_shots = shots if method in learning else None
            name = file_name(entry, dataset, method, encoder, shots=own_shots, taken=names)
            names.add(name)
            file = out / name
            asked = _circumstances(entry, dataset, data, method, encoder, memory, own_shots, seeds)
            result = _kept(file, asked)
            if result is None:
                result = _run(encoder, entry, dataset, data, method, memory, own_shots, seeds)
                result.options["suite"] = asked
                save_results([result], file)
                tell(_line(result))
            results.append(result)
    return results


def file_name(
    entry: Entry,
    dataset: str,
    method: str,
    encoder: Encoder,
    *,
    shots: int | None = None,
    taken: Collection[str] = (),
) -> str:
    """The file of one evaluation: task, data set, method and the first digits of the model's fingerprint.

    Between them stand the shots and a protocol, metric and options of the entry's own, options as a hash; a name that
    is `taken` by another entry gets a hash of the whole entry.
    """
    name = Path(dataset.partition("#")[0]).stem
    parts = [entry.task, *([name] if name.replace("_", "-") != entry.task else [])]
    parts += [own for own in (entry.protocol, entry.metric, _hash(entry.options)) if own]
    parts += [method, *([f"{shots}-shot"] if shots is not None else []), encoder.fingerprint[:8]]
    joined = "--".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts)
    return f"{joined}.json" if f"{joined}.json" not in taken else f"{joined}--{_hash(entry.model_dump())}.json"


def _hash(values: dict[str, Any]) -> str:
    """Eight digits of some values; nothing of none."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8] if values else ""


def _dataset(entry: Entry, data: Path) -> str | None:
    if entry.dataset is None:
        return find_dataset(data, entry.task)
    path = str(data / entry.dataset)
    try:
        return path if resolve(path) else None
    except SourceError:
        return None


def _kept(file: Path, asked: dict[str, Any]) -> Result | None:
    """The finished result in a file, if it is of just this evaluation."""
    if not file.is_file():
        return None
    (result,) = load_results(file)
    return result if result.error is None and result.options.get("suite") == asked else None


def _circumstances(
    entry: Entry,
    dataset: str,
    data: Path,
    method: str,
    encoder: Encoder,
    memory: Memory | None,
    shots: int | None,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What a kept result must agree with; files count as the same while their size and time of change are."""
    from retroclip.version import __version__

    paths = [Path(dataset.partition("#")[0]), *_files(entry, data)]
    # Fields that an entry leaves out are not told, so that results from before there were such fields are still found.
    own = {name: value for name, value in entry.model_dump().items() if name in FIRST_FIELDS or value}
    found: dict[str, Any] = {
        "retroclip": __version__,
        "entry": own,
        "files": [[str(path), *_stamp(path)] for path in paths],
        "task": _described(entry, dataset),
        "model": encoder.fingerprint,
        "precision": encoder.precision,
        "method": method,
        "memory": None if memory is None else [memory.id, memory.version],
        "shots": shots,
        "seeds": list(seeds),
    }
    return json.loads(json.dumps(found, default=str))


def _task(entry: Entry, dataset: str) -> Task:
    """The entry's task, with the entry's metric."""
    return task_for(entry.task, dataset).measured_by(entry.metric)


def _described(entry: Entry, dataset: str) -> dict[str, Any] | None:
    """The task's fields; those of masks only where masks are read, so that results from before them are found.

    None where there is no task, or it can't be read: `_run` will tell why.
    """
    if entry.task == IMAGE_TEXT_RETRIEVAL:
        return None
    try:
        task = _task(entry, dataset)
    except RetroclipError:
        return None
    masked = (entry.protocol or task.protocol) == "segmentation"
    return task.model_dump(mode="json", exclude=None if masked else OF_MASKS)


def _options(entry: Entry, data: Path) -> dict[str, Any]:
    """The options of the entry's protocol; names of files in the data folder become paths."""
    return {name: str(data / value) if _is_file(value, data) else value for name, value in entry.options.items()}


def _is_file(value: Any, data: Path) -> bool:
    return isinstance(value, str) and (data / value.partition("#")[0]).is_file()


def _files(entry: Entry, data: Path) -> list[Path]:
    """What an entry names in the data folder beside its data set: labelled images to learn from, files of options."""
    named = [entry.train, *(value for value in entry.options.values() if _is_file(value, data))]
    return [data / value.partition("#")[0] for value in named if value]


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
    """One evaluation by the entry's protocol; a failure is a result with `error`."""
    try:
        kind = IMAGE_TEXT_RETRIEVAL
        if entry.task != IMAGE_TEXT_RETRIEVAL:
            task = _task(entry, dataset)
            kind = entry.protocol or task.protocol
        _check(entry, kind)
        train = None if entry.train is None else str(data / entry.train)
        given: dict[str, Any] = {"where": entry.where, "seeds": seeds}
        if kind == IMAGE_TEXT_RETRIEVAL:
            return evaluate_captions(encoder, dataset, memory, method=method, **given)
        if kind == "classification":
            return compare(encoder, task, dataset, memory, methods=[method], train=train, shots=shots, **given)[-1]
        options = _options(entry, data) | ({"train": train} if train else {})
        return evaluate_protocol(kind, encoder, task, dataset, memory, method=method, options=options, **given)
    except RetroclipError as error:
        name = Path(dataset.partition("#")[0]).stem
        return Result(
            task=entry.task, dataset=name, n=0, method=method, model=encoder.name, metric="", error=str(error)
        )


def _check(entry: Entry, kind: str) -> None:
    """RetroclipError for a field of an entry that its protocol would leave unused."""
    other = kind not in (IMAGE_TEXT_RETRIEVAL, "classification")
    usable = {
        "protocol": kind != IMAGE_TEXT_RETRIEVAL,
        "metric": kind == "classification",
        "options": other,
        "train": kind == "classification" or (other and takes(kind, "train")),
    }
    unused = [name for name, usable_here in usable.items() if getattr(entry, name) and not usable_here]
    if unused:
        raise RetroclipError(f"`{unused[0]}` of the suite's entry is not for {kind}: leave it out")
    if "train" in entry.options:
        raise RetroclipError("`train` belongs to the suite's entry itself, not to its options")


def _line(result: Result) -> str:
    if result.error is not None:
        return f"{result.task}, {result.method}: failed: {result.error}"
    return f"{result.task}, {result.method}: {100 * (result.value or 0.0):.1f} % ({result.metric}, {result.n:,} images)"
