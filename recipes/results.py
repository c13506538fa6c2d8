"""Measure what each method gains, and write it down: python recipes/results.py ../shared/data [--condition in-domain]

For each condition a memory is built, every method compared on Caltech-101 `val` (three seeds for what is trained) and
the results are stored as JSON in docs/results/ and printed as tables. Killed and run again, it goes on after the last
finished memory and the last finished run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memories import CONDITIONS, memory_pairs

import retroclip
from retroclip.evaluation import compare, load_results, save_results
from retroclip.report.tables import markdown_table
from retroclip.study import summary_line
from retroclip.tasks import Task

TASK = "caltech101"
METHODS = [
    "zero-shot", "primed", "mean-neighbours", "tip-adapter", "real-linear", "reco", "locked-text", "gated-image",
    "gated-image-averaged",
]  # fmt: skip
ALSO = (("intel-scenes", "intel_scenes"), ("cifar10", "cifar10"))
RESULTS = Path("docs/results")


def measure(data: Path, condition: str, work: Path, model: str, methods: list[str]) -> None:
    """One condition: its memory, then every method, stored as docs/results/TASK-CONDITION.json."""
    encoder, task = retroclip.load(model), Task.load(TASK)
    place = work / f"{TASK}-{condition}"
    if place.exists():
        memory = retroclip.Memory.open(place)
    else:
        memory = retroclip.Memory.create(place, encoder, [memory_pairs(data, task, TASK, condition)])
    results = compare(
        encoder,
        task,
        f"{data / TASK}.parquet#val",
        memory,
        methods=methods,
        also=[(name, f"{data / file}.parquet#val") for name, file in ALSO] if condition == "in-domain" else [],
        cache=work / f"runs-{condition}",
        on_result=lambda result: print(condition, summary_line(result), flush=True),
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    save_results(results, RESULTS / f"{TASK}-{condition}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--condition", choices=CONDITIONS, action="append")
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    given = parser.parse_args()
    for condition in given.condition or CONDITIONS:
        measure(given.data, condition, given.work, given.model, given.methods)
    for file in sorted(RESULTS.glob(f"{TASK}-*.json")):
        print(f"\n{file.stem}\n{markdown_table(load_results(file))}")


if __name__ == "__main__":
    main()
