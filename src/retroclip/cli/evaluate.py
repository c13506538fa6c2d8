"""`retroclip evaluate`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import Json, Method, ModelReference, Precision, Shots, Train, Where, read_shots
from retroclip.cli.terminal import print_json, print_results

SEEDS_OF_TRAINED = 3


def evaluate(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *,
    memory: Path | None = None,
    method: Method = None,
    train: Train = None,
    shots: Shots = None,
    where: Where = None,
    seed: int = 0,
    seeds: Annotated[int | None, Parameter(help="Runs; default: 3 with --train, else 1.")] = None,
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Measure a model on labelled images, or on captioned ones (the task `image-text-retrieval`).

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
        `#val` picks a split.
    memory
        The memory to use, for methods that need one.
    seed
        The seed of the first run.
    """
    count = read_shots(shots, train)
    from retroclip.encoders import load
    from retroclip.errors import RetroclipError
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, compare, evaluate_retrieval
    from retroclip.memory import Memory
    from retroclip.prediction import default_method
    from retroclip.tasks import Task

    opened = Memory.open(memory) if memory else None
    if task == IMAGE_TEXT_RETRIEVAL:
        if train:
            raise WrongUsageError(f"evaluate: {task} has no classes to learn: leave out --train")
        encoder = load(model, precision=precision)
        result = evaluate_retrieval(encoder, dataset, where=where, memory=opened, method=method, seed=seed)
    else:
        chosen = method or ("linear-probe" if train else default_method(opened))
        runs = range(seed, seed + (seeds or (SEEDS_OF_TRAINED if train else 1)))
        encoder, loaded = load(model, precision=precision), Task.load(task)
        result = compare(
            encoder, loaded, dataset, opened, methods=[chosen], seeds=runs, where=where, train=train, shots=count
        )[-1]
    if result.error is not None:
        raise RetroclipError(f"{result.method}: {result.error}")
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_results([result])
