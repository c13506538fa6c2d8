"""`retroclip evaluate`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import (
    Describe,
    Json,
    MemoryName,
    Method,
    MetricName,
    ModelReference,
    Precision,
    Seed,
    Shots,
    Train,
    Where,
    read_shots,
    split_words,
)
from retroclip.cli.terminal import print_json, print_results, say, told_failures, with_progress
from retroclip.cli.train import parse_settings

if TYPE_CHECKING:
    from retroclip.evaluation import Result
    from retroclip.memory import Memory
    from retroclip.tasks import Task

SEEDS_OF_TRAINED = 3
AS_IMAGES = " (labelled images one by one: --protocol classification)"


@with_progress
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
    seed: Seed | None = None,
    seeds: Annotated[
        int | None,
        Parameter(help="Runs; default: 3 with --train or --suite, else 1.", validator=validators.Number(gte=1)),
    ] = None,
    metric: MetricName = None,
    describe: Describe = False,
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
        The seed of the first run (default: 0), for methods that are trained and protocols that draw or train.
    suite
        Instead of TASK and DATASET: a list of tasks, elevater-20, kornblith-12, ra-clip, imagenet-variants, or a YAML
        file (`tasks: [{task: pets, dataset: pets.parquet#test, train: pets.parquet#train}]`, also with `where`,
        `protocol`, `options` and `metric`). `--method` may then name several, with commas between.
    data
        The folder with the data of a suite, each by the name of its task (`food101.parquet`, `food101/`). Default: the
        working folder.
    out
        The folder for a suite's results, one JSON file each; what is there already is not measured again.
    """
    if describe and (suite is not None or task == "image-text-retrieval"):
        raise WrongUsageError("evaluate: --describe is for a TASK with classes")
    if suite is not None:
        if task or dataset or where or metric or protocol or train or settings or out is None:
            raise WrongUsageError("evaluate: --suite takes --data and --out, and its tasks and data from the suite")
        return evaluate_suite(model, suite, data or Path(), out, memory, method, shots, seed, seeds, precision, json)
    if task is None or dataset is None:
        raise WrongUsageError("evaluate: name a TASK and a DATASET, or a --suite")
    if data or out:
        raise WrongUsageError("evaluate: --data and --out belong to --suite")
    count, asked = read_shots(shots, train), parse_settings(settings, "evaluate")
    from retroclip.encoders import load
    from retroclip.errors import RetroclipError
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, compare
    from retroclip.evaluation.protocol_runs import evaluate_captions, evaluate_protocol
    from retroclip.memory import Memory
    from retroclip.methods import DEFAULT, get_method
    from retroclip.tasks import task_for

    loaded = None if task == IMAGE_TEXT_RETRIEVAL else task_for(task, dataset)
    loaded = loaded.described() if describe and loaded is not None else loaded
    kind = IMAGE_TEXT_RETRIEVAL if loaded is None else protocol or loaded.protocol
    check_unused(kind, {"--protocol": protocol, "--train": train, "--metric": metric}, asked)
    opened = Memory.open(memory) if memory else None
    chosen = method or ("linear-probe" if train else DEFAULT)
    if train and not get_method(chosen).needs_train:
        raise WrongUsageError(f"evaluate: leave out --train: {chosen} doesn't learn from labelled images")
    runs = seeds_of(kind, chosen, opened, loaded, asked, seed, seeds, default=SEEDS_OF_TRAINED if train else 1)
    if loaded is None:
        encoder = load(model, precision=precision)
        result = evaluate_captions(encoder, dataset, opened, method=chosen, where=where, seeds=runs)
    elif kind != "classification":
        encoder = load(model, precision=precision)
        given: dict[str, Any] = {"method": chosen, "where": where, "seeds": runs, "options": asked}
        result = evaluate_protocol(kind, encoder, loaded, dataset, opened, **given)
    else:
        loaded = loaded.measured_by(metric)
        encoder = load(model, precision=precision)
        options: dict[str, Any] = {"seeds": runs, "where": where, "train": train, "shots": count}
        result = compare(encoder, loaded, dataset, opened, methods=[chosen], **options)[-1]
    if result.error is not None:
        raise RetroclipError(f"{result.method}: {result.error}")
    show(result, json)
    return 0


def check_unused(kind: str, options: dict[str, Any], asked: dict[str, Any]) -> None:
    """WrongUsageError for an option, or a setting in `asked`, that a protocol would leave unused."""
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL
    from retroclip.evaluation.protocols import takes

    if kind == "classification":
        if asked:
            raise WrongUsageError(f"evaluate: --set.{next(iter(asked))} is an option of other protocols (--protocol)")
        return
    retrieval = kind == IMAGE_TEXT_RETRIEVAL
    unused = [name for name, value in options.items() if value is not None and (retrieval or name != "--protocol")]
    unused += [f"--set.{name}" for name in asked] if retrieval else []
    if unused:
        learns = unused[0] == "--train" and not retrieval and takes(kind, "train")
        hint = (", it learns from --set.train" if learns else "") + ("" if retrieval else AS_IMAGES)
        raise WrongUsageError(f"evaluate: leave out {unused[0]}: {kind} has no use for it{hint}")


def seeds_of(
    kind: str,
    method: str,
    memory: "Memory | None",
    task: "Task | None",
    asked: dict[str, Any],
    seed: int | None,
    seeds: int | None,
    *,
    default: int,
) -> range:
    """The seeds of the runs; WrongUsageError where they were named and nothing depends on them, or named twice."""
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL
    from retroclip.evaluation.protocols import draws
    from retroclip.methods import pick_method

    named = [name for name, value in (("--seed", seed), ("--seeds", seeds)) if value is not None]
    drawn = kind not in (IMAGE_TEXT_RETRIEVAL, "classification") and draws(kind, asked)
    if named and "seed" in asked:
        raise WrongUsageError(f"evaluate: the seed is named twice: leave out {named[0]} or --set.seed")
    if named and not drawn and not (used := pick_method(method, memory, task, kind)).trained:
        raise WrongUsageError(f"evaluate: {kind} by {used.name} trains and draws nothing: leave out {named[0]}")
    first = seed or 0
    return range(first, first + (seeds or default))


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
    seed: int | None,
    seeds: int | None,
    precision: str,
    json: bool,
) -> int:
    """`evaluate --suite`: every entry whose data is there; 1 if one of them failed."""
    from retroclip.encoders import load
    from retroclip.memory import Memory
    from retroclip.methods import DEFAULT, get_method, may_train
    from retroclip.suites import run_suite
    from retroclip.tasks import load_suite

    loaded, count = load_suite(name), read_shots(shots, "the suite")
    opened = Memory.open(memory) if memory else None
    methods = split_words(method) if method else [DEFAULT]
    learning = [each for each in methods if each != DEFAULT and get_method(each).needs_train]
    if shots is not None and not learning:
        raise WrongUsageError("evaluate: --shots is for methods that learn from labelled images: name one by --method")
    # A task of one's own, a file, may have a protocol that draws.
    own = [entry for entry in loaded.tasks if entry.train or entry.protocol or Path(entry.task).suffix]
    drawn = own or any(may_train(each, opened) for each in methods)
    if (seed is not None or seeds is not None) and not drawn:
        raise WrongUsageError("evaluate: nothing in this suite is trained or drawn: leave out --seed and --seeds")
    runs = range(seed or 0, (seed or 0) + (seeds or SEEDS_OF_TRAINED))
    encoder = load(model, precision=precision)
    given: dict[str, Any] = {"methods": methods, "memory": opened, "shots": count, "seeds": runs, "tell": say}
    results = run_suite(encoder, loaded, data, out, **given)
    show(results, json)
    return told_failures(results)
