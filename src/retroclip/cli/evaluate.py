"""`retroclip evaluate`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import Json, Method, MetricName, ModelReference, Precision, Shots, Train, Where, read_shots
from retroclip.cli.terminal import print_json, print_results
from retroclip.cli.train import parse_settings

SEEDS_OF_TRAINED = 3


def evaluate(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, help="Options of a protocol: `--set.size 320`.")],
    protocol: str | None = None,
    memory: Path | None = None,
    method: Method = None,
    train: Train = None,
    shots: Shots = None,
    where: Where = None,
    seed: int = 0,
    seeds: Annotated[int | None, Parameter(help="Runs; default: 3 with --train, else 1.")] = None,
    metric: MetricName = None,
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Measure a model by the task's protocol: labelled images, captioned ones, regions, detection, masks, clips.

    With --train a linear probe learns from labelled images (or another --method that does: linear-probe,
    linear-probe-text, linear-probe-sgd, linear-probe-sgd-text, fine-tune).

    With --memory image-text retrieval is refined by it (default: --method mean-neighbours).

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, `'cat, dog'`,
        `image-text-retrieval`, or a folder in CLIP_benchmark's layout.
    dataset
        A parquet file with `image` and `label` columns, a folder of class folders, or one in CLIP_benchmark's layout;
        `#val` picks a split. Regions and detection take a `boxes` column, a COCO or LVIS json, or a VOC folder.
    protocol
        Another one than the task's own: classification, regions, detection, segmentation, video, typographic-attack, ….
    memory
        The memory to use, for methods that need one.
    seed
        The seed of the first run.
    """
    count = read_shots(shots, train)
    from retroclip.encoders import load
    from retroclip.errors import RetroclipError
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, compare, evaluate_retrieval
    from retroclip.evaluation.protocols import model_for, run_protocol
    from retroclip.memory import Memory
    from retroclip.prediction import default_method
    from retroclip.tasks import Task

    asked = parse_settings(settings, "evaluate")
    opened = Memory.open(memory) if memory else None
    if task == IMAGE_TEXT_RETRIEVAL:
        if train:
            raise WrongUsageError(f"evaluate: {task} has no classes to learn: leave out --train")
        encoder = load(model, precision=precision)
        result = evaluate_retrieval(encoder, dataset, where=where, memory=opened, method=method, seed=seed)
    elif (chosen_protocol := protocol or Task.load(task).protocol) != "classification":
        if train:
            raise WrongUsageError(f"evaluate: --train is for classification, not for {chosen_protocol}")
        chosen, loaded = method or default_method(opened), Task.load(task)
        encoder = load(model, precision=precision)
        used = model_for(encoder, loaded, dataset, opened, method=chosen, where=where, seed=seed)
        result = run_protocol(chosen_protocol, used, loaded, dataset, where=where, method=chosen, options=asked)
    else:
        if asked:
            raise WrongUsageError(f"evaluate: --set.{next(iter(asked))} is an option of other protocols (--protocol)")
        chosen = method or ("linear-probe" if train else default_method(opened))
        runs = range(seed, seed + (seeds or (SEEDS_OF_TRAINED if train else 1)))
        loaded = Task.load(task).model_copy(update={"metric": metric} if metric else {})
        encoder = load(model, precision=precision)
        result = compare(
            encoder, loaded, dataset, opened, methods=[chosen], seeds=runs, where=where, train=train, shots=count
        )[-1]
    if result.error is not None:
        raise RetroclipError(f"{result.method}: {result.error}")
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_results([result])
