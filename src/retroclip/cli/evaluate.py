"""`retroclip evaluate`"""

from pathlib import Path

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import Json, Method, ModelReference, Precision, Where
from retroclip.cli.terminal import print_json, print_results


def evaluate(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *,
    memory: Path | None = None,
    method: Method = None,
    where: Where = None,
    seed: int = 0,
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Measure a model on labelled images, or on captioned ones (the task `image-text-retrieval`).

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, `'cat, dog'`, or
        `image-text-retrieval`.
    dataset
        A parquet file with `image` and `label` columns, or a folder of class folders; `#val` picks a split.
    memory
        The memory to use, for methods that need one.
    """
    from retroclip.encoders import load
    from retroclip.errors import RetroclipError
    from retroclip.evaluation import IMAGE_TEXT_RETRIEVAL, compare, evaluate_retrieval
    from retroclip.memory import Memory
    from retroclip.prediction import default_method
    from retroclip.tasks import Task

    if task == IMAGE_TEXT_RETRIEVAL:
        if memory or method:
            raise WrongUsageError(f"evaluate: {task} takes neither --memory nor --method: it measures the model itself")
        result, chosen = evaluate_retrieval(load(model, precision=precision), dataset, where=where), "zero-shot"
    else:
        opened = Memory.open(memory) if memory else None
        chosen = method or default_method(opened)
        encoder, loaded = load(model, precision=precision), Task.load(task)
        result = compare(encoder, loaded, dataset, opened, methods=[chosen], seeds=[seed], where=where)[-1]
    if result.error is not None:
        raise RetroclipError(f"{chosen}: {result.error}")
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_results([result])
