"""`retroclip compare`"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from retroclip.cli.options import (
    Describe,
    Json,
    MemoryName,
    MetricName,
    ModelReference,
    Shots,
    Train,
    Where,
    read_shots,
    split_pair,
    split_words,
)
from retroclip.cli.terminal import print_json, print_results, say, told_failures, with_progress


@with_progress
def compare(
    model: ModelReference,
    task: str,
    dataset: str,
    /,
    *,
    memory: MemoryName,
    methods: Annotated[str | None, Parameter(help="Names or patterns with commas between; default: all.")] = None,
    seeds: Annotated[int, Parameter(help="Runs of each trained method.", validator=validators.Number(gte=1))] = 3,
    also: Annotated[list[str] | None, Parameter(negative=())] = None,
    train: Train = None,
    shots: Shots = None,
    where: Where = None,
    metric: MetricName = None,
    describe: Describe = False,
    out: Path | None = None,
    json: Json = False,
) -> int:
    """Run every method on one problem: metrics, gain over zero-shot with its interval, seconds, trained parameters.

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, or `'cat, dog'`.
    dataset
        A parquet file with `image` and `label` columns, or a folder of class folders; `#val` picks a split.
    memory
        The memory that the methods use. Near-duplicates of the data set's images in it are counted and left out.
    also
        TASK=DATASET: what a customized model forgets there. May be repeated.
    out
        Folder for results.json and report.html; finished methods are kept there, so that a killed run goes on.
    """
    count = read_shots(shots, train)
    pairs = [split_pair(text, "--also") for text in also or []]

    from retroclip.encoders import load
    from retroclip.evaluation import compare as compare_methods
    from retroclip.memory import Memory
    from retroclip.study import raise_if_all_failed, run_study, summary_line
    from retroclip.tasks import Task

    others = [(Task.load(name), data) for name, data in pairs]
    encoder, loaded, opened = load(model), Task.load(task), Memory.open(memory)
    loaded = loaded.described() if describe else loaded
    loaded = loaded.measured_by(metric)
    if loaded.protocol != "classification":
        say(f"compare counts images one by one; {loaded.protocol}, the protocol of {loaded.name}, is evaluate's")
    chosen = split_words(methods) if methods else None
    options: dict[str, Any] = {"methods": chosen, "seeds": range(seeds), "also": others, "where": where}
    options |= {"train": train, "shots": count}
    if out is not None:
        study = run_study(encoder, loaded, dataset, opened, out, tell=say, **options)
        results = study.results
        say(f"report: {study.report}")
    else:
        results = compare_methods(
            encoder, loaded, dataset, opened, on_result=lambda result: say(summary_line(result)), **options
        )
        raise_if_all_failed(results)
    if json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        print_results(results)
    return told_failures(results)
