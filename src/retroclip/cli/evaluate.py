"""`retroclip evaluate`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import (
    Json,
    MemoryName,
    Method,
    MetricName,
    ModelReference,
    Precision,
    Shots,
    Train,
    Where,
    read_shots,
    split_words,
)
from retroclip.cli.terminal import print_json, print_results, say, told_failures
from retroclip.cli.train import parse_settings

if TYPE_CHECKING:
    from retroclip.evaluation import Result

SEEDS_OF_TRAINED = 3


def evaluate(
    model: ModelReference,
    task: str | None = None,
    dataset: str | None = None,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, help="Options of a protocol: `--set.size 320`.")],
    protocol: str | None = None,
    memory: MemoryName | None = None,
    method: Method = None,
    train: Train = None,
    shots: Shots = None,
    where: Where = None,
    seed: int = 0,
    seeds: Annotated[int | None, Parameter(help="Runs; default: 3 with --train, else 1.")] = None,
    metric: MetricName = None,
    suite: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    precision: Precision = "auto",
    json: Json = False,
) -> int:
    """Measure a model by the task's protocol: labelled images, captioned ones, regions, detection, masks, clips.

    With --train a linear probe learns from labelled images (or another --method that does: linear-probe,
    linear-probe-features, linear-probe-text, linear-probe-sgd, linear-probe-sgd-text, fine-tune).

    With --memory image-text retrieval is refined by it (default: --method mean-neighbours).

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, `'cat, dog'`,
        `image-text-retrieval`, a folder in CLIP_benchmark's layout, or a COCO or LVIS json, whose categories are the
        classes (`lvis`: those of DATASET).
    dataset
        A parquet file with `image` and `label` columns, a folder of class folders, or one in CLIP_benchmark's layout;
        `#val` picks a split. Regions and detection take a `boxes` column, a COCO or LVIS json, or a VOC folder.
    protocol
        Another one than the task's own: classification, regions, detection, segmentation, video, typographic-attack, ….
    memory
        The memory to use, for methods that need one.
    seed
        The seed of the first run.
    suite
        Instead of TASK and DATASET: a list of tasks, elevater-20, kornblith-12, ra-clip, imagenet-variants, or a YAML
        file (`tasks: [{task: pets, dataset: pets.parquet#test, train: pets.parquet#train}]`). `--method` may then
        name several, with commas between.
    data
        The folder with the data of a suite, each by the name of its task (`food101.parquet`, `food101/`).
    out
        The folder for a suite's results, one JSON file each; what is there already is not measured again.
    """
    if suite is not None:
        if task or dataset or where or metric or protocol or settings or data is None or out is None:
            raise WrongUsageError("evaluate: --suite takes --data and --out, and its tasks and data from the suite")
        return evaluate_suite(model, suite, data, out, memory, method, shots, seed, seeds, precision, json)
    if task is None or dataset is None:
        raise WrongUsageError("evaluate: name a TASK and a DATASET, or a --suite")
    if data or out:
        raise WrongUsageError("evaluate: --data and --out belong to --suite")
    count = read_shots(shots, train)
    from retroclip.encoders import load
    from retroclip.errors import RetroclipError
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, compare, evaluate_retrieval
    from retroclip.evaluation.protocols import model_for, run_protocol
    from retroclip.memory import Memory
    from retroclip.prediction import default_method
    from retroclip.tasks import task_for

    asked = parse_settings(settings, "evaluate")
    loaded = None if task == IMAGE_TEXT_RETRIEVAL else task_for(task, dataset)
    opened = Memory.open(memory) if memory else None
    if loaded is None:
        if train:
            raise WrongUsageError(f"evaluate: {task} has no classes to learn: leave out --train")
        encoder = load(model, precision=precision)
        result = evaluate_retrieval(encoder, dataset, where=where, memory=opened, method=method, seed=seed)
    elif (chosen_protocol := protocol or loaded.protocol) != "classification":
        if train:
            raise WrongUsageError(f"evaluate: --train is for classification, not for {chosen_protocol}")
        chosen = method or default_method(opened)
        encoder = load(model, precision=precision)
        used = model_for(encoder, loaded, dataset, opened, method=chosen, where=where, seed=seed)
        result = run_protocol(chosen_protocol, used, loaded, dataset, where=where, method=chosen, options=asked)
    else:
        if asked:
            raise WrongUsageError(f"evaluate: --set.{next(iter(asked))} is an option of other protocols (--protocol)")
        chosen = method or ("linear-probe" if train else default_method(opened))
        runs = range(seed, seed + (seeds or (SEEDS_OF_TRAINED if train else 1)))
        loaded = loaded.model_copy(update={"metric": metric} if metric else {})
        encoder = load(model, precision=precision)
        result = compare(
            encoder, loaded, dataset, opened, methods=[chosen], seeds=runs, where=where, train=train, shots=count
        )[-1]
    if result.error is not None:
        raise RetroclipError(f"{result.method}: {result.error}")
    show(result, json)
    return 0


def show(results: "Result | list[Result]", json: bool) -> None:
    """A table, or under `--json` an object for one result and a list for several."""
    several = results if isinstance(results, list) else [results]
    if json:
        rows = [result.model_dump(mode="json") for result in several]
        print_json(rows if results is several else rows[0])
    else:
        print_results(several)


def evaluate_suite(
    model: str,
    name: str,
    data: Path,
    out: Path,
    memory: MemoryName | None,
    method: str | None,
    shots: str | None,
    seed: int,
    seeds: int | None,
    precision: str,
    json: bool,
) -> int:
    """`evaluate --suite`: every entry whose data is there; 1 if one of them failed."""
    from retroclip.encoders import load
    from retroclip.memory import Memory
    from retroclip.prediction import default_method
    from retroclip.suites import run_suite
    from retroclip.tasks import load_suite

    loaded, count = load_suite(name), read_shots(shots, "the suite")
    opened = Memory.open(memory) if memory else None
    methods = split_words(method) if method else [default_method(opened)]
    runs = range(seed, seed + (seeds or SEEDS_OF_TRAINED))
    encoder = load(model, precision=precision)
    given: dict[str, Any] = {"methods": methods, "memory": opened, "shots": count, "seeds": runs, "tell": say}
    results = run_suite(encoder, loaded, data, out, **given)
    show(results, json)
    return told_failures(results)
