"""`retroclip evaluate`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.options import Json, ModelReference, Where
from retroclip.cli.terminal import is_interactive, print_json


def evaluate(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *,
    memory: Path | None = None,
    method: Annotated[str, Parameter(help="A method of `retroclip compare`.")] = "zero-shot",
    where: Where = None,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Measure a model on labelled images.

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`) or a YAML file.
    dataset
        A parquet file with `image` and `label` columns, or a folder of class folders; `#val` picks a split.
    memory
        The memory to use, for methods that need one.
    """
    from retroclip.encoders import load
    from retroclip.evaluation import evaluate_method
    from retroclip.memory import Memory
    from retroclip.report import print_result
    from retroclip.tasks import Task

    result = evaluate_method(
        load(model),
        Task.load(task),
        dataset,
        method,
        memory=Memory.open(memory) if memory else None,
        where=where,
        seed=seed,
        progress=is_interactive(),
    )
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_result(result)
