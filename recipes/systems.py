"""Compare the systems on tasks of different kinds: python recipes/systems.py ../shared/data [--task gtsrb] [--show]

For each task of `memories.TASKS` and each condition of its memory (pairs that know the task and as many that don't; the
same with every second caption wrong; other pairs only) every method is measured on `val`, what is trained with three
seeds, and stored as docs/results/systems/TASK-CONDITION.json. Each set is embedded once for all of them. Killed and run
again, this goes on after the last finished run; what is stored for the same model, memory, images, templates, methods
and seeds isn't measured again. Fewer methods or seeds (`--methods`, `--seeds`) are taken from there, or measured and
printed: they replace no file that holds more of the same. Nothing is chosen by these figures. `--show` prints what is
stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from memories import CONDITIONS, TASKS, Sources

import retroclip
from retroclip.encoders import Encoder
from retroclip.evaluation import Result, Samples, compare, load_results, load_samples, save_results
from retroclip.evaluation.comparison import method_names
from retroclip.memory import Memory
from retroclip.methods import get_method
from retroclip.report.figures import duration
from retroclip.report.tables import markdown_table
from retroclip.study import summary_line
from retroclip.tasks import Task

MEASURED = ("in-domain", "half-wrong", "general")
ELSEWHERE = {("caltech101", "in-domain"): ("intel-scenes", "cifar10")}
"""On which other tasks the models of a comparison are asked what they forgot."""
METHODS = (
    "zero-shot", "primed", "mean-neighbours", "mean-neighbours-centred", "tip-adapter", "tip-x", "real-prompt",
    "real-linear", "stacked-linear", "stacked-linear-features", "reco", "reco-plain", "ra-clip", "locked-text",
    "gated-image", "gated-image-averaged", "gated-image-linear",
)  # fmt: skip
RESULTS = Path("docs/results/systems")


def measure(
    sources: Sources, task: Task, samples: Samples, condition: str, methods: Sequence[str], seeds: Sequence[int]
) -> list[Result]:
    """Every method on one task under one condition, from the store where it is there.

    What trains nothing, asked for or stored, is measured again beside what the store lacks: training is compared with
    the best of it. Where that is another than a stored row was compared with, everything is measured again. Stored rows
    of other methods stay, and a file with more seeds gives way to none with fewer.
    """
    file, memory = RESULTS / f"{task.name}-{condition}.json", sources.memory(task, condition)
    wanted, stored = method_names(methods), load_results(file) if file.exists() else []
    if not same_circumstances(stored, sources.encoder, task, samples, memory):
        stored = []
    rows = {result.method: result for result in stored}
    known = {name for name, result in rows.items() if stands([result], seeds)}
    if known.issuperset(wanted):
        return [rows[name] for name in wanted]

    def compared(names: Sequence[str]) -> dict[str, Result]:
        results = compare(
            sources.encoder,
            task,
            samples,
            memory,
            methods=names,
            seeds=list(seeds),
            also=[elsewhere(sources.data, name) for name in ELSEWHERE.get((task.name, condition), ())],
            cache=sources.work / "runs" / f"{task.name}-{condition}",
            on_result=lambda result: print(task.name, condition, summary_line(result), flush=True),
        )
        return {result.method: result for result in results}

    every = in_order({*wanted, *rows})
    missing = {name for name in wanted if name not in known}
    found = compared([name for name in every if name in missing or not get_method(name).trained])
    best = best_control(found.values())
    if any(result.control != best for name, result in rows.items() if name not in found and not result.error):
        found = compared(every)
    rows |= found
    results = [rows[name] for name in wanted]
    if has_more_seeds(stored, seeds):
        print(f"{file} holds more seeds and stays: delete it to store this", flush=True)
        print(markdown_table(results), flush=True)
        return results
    RESULTS.mkdir(parents=True, exist_ok=True)
    # Curves would be most of the file, and the page shows none.
    save_results([rows[name].model_copy(update={"history": []}) for name in every], file)
    return results


def in_order(names: Collection[str]) -> list[str]:
    """Names in the order of `METHODS`, then others."""
    return [*(name for name in METHODS if name in names), *sorted(set(names) - set(METHODS))]


def elsewhere(data: Path, name: str) -> tuple[Task, Samples]:
    """Another task with its `val` images."""
    task = Task.load(name)
    return task, load_samples(task, f"{data / TASKS.get(name, name)}.parquet#val")


def same_circumstances(
    results: Sequence[Result], encoder: Encoder, task: Task, samples: Samples, memory: Memory
) -> bool:
    """Whether stored results are those of this model, task, memory and evaluated images; failed rows say nothing."""
    known = [result for result in results if not result.error]
    if any(len(result.rejected) > len(samples.rejected) for result in known):
        samples.drop_unreadable()  # as it was done before they were measured
    now = (encoder.fingerprint, task.metric, task.templates, samples.hash, memory.path.name, len(memory))
    return bool(known) and all(
        (r.fingerprint, r.metric, r.templates, r.data_hash, r.memory, r.memory_pairs) == now for r in known
    )


def stands(results: Sequence[Result], seeds: Sequence[int]) -> bool:
    """Whether stored results are those of these seeds, without a failure."""
    return all(result.seeds in ([], list(seeds)) and not result.error for result in results)


def best_control(results: Collection[Result]) -> str | None:
    """The method that uses the memory without training and is best among these."""
    methods = {result.method: get_method(result.method) for result in results}
    controls = [r for r in results if methods[r.method].needs_memory and not methods[r.method].trained and not r.error]
    return max(controls, key=lambda result: result.value or 0.0).method if controls else None


def has_more_seeds(stored: Sequence[Result], seeds: Sequence[int]) -> bool:
    """Whether stored results have a seed that isn't among these."""
    return any(not set(result.seeds) <= set(seeds) for result in stored if not result.error)


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
