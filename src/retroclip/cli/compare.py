"""`retroclip compare`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.options import Json, ModelReference, Where, split_words
from retroclip.cli.terminal import print_json, say


def compare(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *,
    memory: Path,
    methods: Annotated[str | None, Parameter(help="Names or patterns with commas between; default: all.")] = None,
    seeds: Annotated[int, Parameter(help="Runs of each trained method.")] = 3,
    also: Annotated[list[str] | None, Parameter(negative=())] = None,
    where: Where = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Run every method on one problem: metrics, gain over zero-shot with its interval, seconds, trained parameters.

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`) or a YAML file.
    dataset
        A parquet file with `image` and `label` columns, or a folder of class folders; `#val` picks a split.
    memory
        The memory that the methods use. Near-duplicates of the data set's images in it are counted and left out.
    also
        TASK=DATASET: what a customized model forgets there. May be repeated.
    out
        Folder for results.json and report.html; finished methods are kept there, so that a killed run goes on.
    """
    from retroclip.comparing import run_comparison
    from retroclip.report import print_comparison

    results = run_comparison(
        model,
        task,
        dataset,
        memory,
        methods=split_words(methods) if methods else None,
        seeds=range(seeds),
        also=also or [],
        where=where,
        out=out,
        tell=say,
    )
    if json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        print_comparison(results)
