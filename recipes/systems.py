"""Compare the systems on tasks of different kinds: python recipes/systems.py ../shared/data [--task gtsrb] [--show]

For each task of `memories.TASKS` and each condition of its memory (pairs that know the task and as many that don't; the
same with every second caption wrong; other pairs only) every method is measured on `val`, what is trained with three
seeds, and stored as docs/results/systems/TASK-CONDITION.json. Each set is embedded once for all of them. Killed and run
again, this goes on after the last finished run; what is stored for the same model and methods isn't measured again.
Nothing is chosen by these figures. `--show` prints what is stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memories import CONDITIONS, TASKS, Sources

import retroclip
from retroclip.evaluation import Result, Samples, compare, load_results, load_samples, save_results
from retroclip.report.tables import duration, markdown_table
from retroclip.study import summary_line
from retroclip.tasks import Task

MEASURED = ("in-domain", "half-wrong", "general")
ELSEWHERE = {("caltech101", "in-domain"): ("intel-scenes", "cifar10")}
"""On which other tasks the models of a comparison are asked what they forgot."""
METHODS = (
    "zero-shot", "primed", "mean-neighbours", "mean-neighbours-centred", "tip-adapter", "tip-x", "real-prompt",
    "real-linear", "reco", "reco-plain", "ra-clip", "locked-text", "gated-image",
    "gated-image-averaged", "gated-image-linear",
)  # fmt: skip
RESULTS = Path("docs/results/systems")


def measure(
    sources: Sources, task: Task, samples: Samples, condition: str, methods: Sequence[str], seeds: Sequence[int]
) -> list[Result]:
    """Every method on one task under one condition, stored; taken from the store where it is there already."""
    file = RESULTS / f"{task.name}-{condition}.json"
    if file.exists() and stands(load_results(file), sources.encoder, methods, seeds):
        return load_results(file)
    results = compare(
        sources.encoder,
        task,
        samples,
        sources.memory(task, condition),
        methods=methods,
        seeds=list(seeds),
        also=[elsewhere(sources.data, name) for name in ELSEWHERE.get((task.name, condition), ())],
        cache=sources.work / "runs" / f"{task.name}-{condition}",
        on_result=lambda result: print(task.name, condition, summary_line(result), flush=True),
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    # Curves would be most of the file, and the page shows none.
    save_results([result.model_copy(update={"history": []}) for result in results], file)
    return results


def elsewhere(data: Path, name: str) -> tuple[Task, Samples]:
    """Another task with its `val` images."""
    task = Task.load(name)
    return task, load_samples(task, f"{data / TASKS.get(name, name)}.parquet#val")


def stands(results: Sequence[Result], encoder: Any, methods: Sequence[str], seeds: Sequence[int]) -> bool:
    """Whether stored results are those of this model, these methods and seeds, without a failure."""
    same = [r.method for r in results] == list(methods) and all(r.fingerprint == encoder.fingerprint for r in results)
    return same and all(r.seeds in ([], list(seeds)) for r in results) and not any(r.error for r in results)


def times(results: Sequence[Result], others: dict[str, float]) -> str:
    """Where the time went: seconds a method, all seeds and conditions together, and what was done for all of them."""
    spent = dict(others)
    for result in results:
        runs = max(1, len(result.seeds))
        spent[result.method] = spent.get(result.method, 0.0) + runs * result.seconds
    lines = [f"  {duration(seconds):>12}  {name}" for name, seconds in sorted(spent.items(), key=lambda one: -one[1])]
    return "\n".join(["where the time went (what methods share counts with each):", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--condition", choices=CONDITIONS, action="append", help=f"default: {', '.join(MEASURED)}")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--work", type=Path, default=Path("runs/systems"))
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        start = time.perf_counter()
        sources = Sources(given.data, retroclip.load(given.model), given.work)
        results = []
        for name in given.task or TASKS:
            task = Task.load(name)
            samples = load_samples(task, f"{given.data / TASKS[name]}.parquet#val")
            for condition in given.condition or MEASURED:
                results += measure(sources, task, samples, condition, given.methods, range(given.seeds))
        print(times(results, sources.seconds), f"all: {duration(time.perf_counter() - start)}", sep="\n", flush=True)
    for file in sorted(RESULTS.glob("*.json")):
        print(f"\n{file.stem}\n{markdown_table(load_results(file))}")


if __name__ == "__main__":
    main()
