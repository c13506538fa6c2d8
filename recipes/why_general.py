"""Why methods lose on a memory without any pair of the task: python recipes/why_general.py ../shared/data [--show]

The methods of `systems.py` on a task's *general* memory, image by image against zero-shot. A gain is a sum over images,
and so is shared out among parts of them: by how many pairs of the memory name the image's class (and show it), and by
what the captions of the ten nearest pairs name. A pair shows the class it names if the task's photo in `train` that is
nearest to its picture is of that class. `--split train` asks the training photos, none of which is in the memory. It
goes to docs/results/why-general.json; killed and run again it goes on after the last run. Nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from memories import TASKS, Sources
from numpy.typing import NDArray
from why_evidence import evidence, moved, worst

import retroclip
from retroclip.evaluation import Samples, load_samples
from retroclip.evaluation.bootstrap import paired_gain
from retroclip.evaluation.circumstances import circumstances
from retroclip.evaluation.comparison import prepare_context
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.runs import RunCache, run_method
from retroclip.files import write_whole
from retroclip.methods import MethodContext, get_method
from retroclip.tasks import Task

RESULTS = Path("docs/results/why-general.json")
METHODS = (
    "primed", "mean-neighbours", "mean-neighbours-centred", "tip-x", "stacked-linear", "stacked-linear-features",
    "reco", "ra-clip", "locked-text", "gated-image",
)  # fmt: skip
RESAMPLES = 1000
Gain = tuple[float, float, float]


def outcomes_of(name: str, context: MethodContext, samples: Samples, work: Path, seeds: int) -> list[Outcome]:
    """A method's answers, one a seed, from the runs kept by `systems.py` or here."""
    method = get_method(name)
    cache = RunCache(work / "runs" / f"{context.task.name}-general", circumstances(context, samples, []))
    runs = []
    for seed in range(seeds if method.trained else 1):
        run = cache.get(name, seed)
        if run is None:
            run = run_method(method, context.for_run(seed), samples)
            cache.put(name, seed, run)
        runs.append(run.outcome)
    return runs


def gained(outcomes: Sequence[Outcome], base: Outcome, metric: str, part: NDArray[np.bool_] | None = None) -> Gain:
    """The gain over zero-shot in points with its interval; of a `part`, what it adds to the gain of the whole."""
    if part is not None:
        outcomes = [replace(one, correct=np.where(part, one.correct, base.correct)) for one in outcomes]
    gain, interval = paired_gain(outcomes, [base], metric, resamples=RESAMPLES)
    return gain, *(interval or (0.0, 0.0))


def right(base: Outcome, metric: str, part: NDArray[np.bool_]) -> float:
    """What a part of the images adds to zero-shot's figure, in points."""
    return 100 * float(replace(base, correct=base.correct & part).value(metric))


def stored() -> dict[str, Any]:
    """What was measured before, by task and split."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def measure(sources: Sources, task: Task, split: str, methods: Sequence[str], seeds: int) -> None:
    """One task and split: each method is stored when it is known."""
    samples = load_samples(task, f"{sources.data / TASKS[task.name]}.parquet#{split}")
    context = prepare_context(sources.encoder, task, samples, sources.memory(task, "general"))
    known = evidence(context, samples, sources)
    pairs, classes = known.counts(len(task.classes)), len(task.classes)
    base = outcomes_of("zero-shot", context, samples, sources.work, 1)[0]
    parts = known.parts(base.labels, classes)
    record = {
        "task": task.name, "split": split, "n": len(samples), "metric": task.metric, "model": sources.encoder.name,
        "fingerprint": sources.encoder.fingerprint, "memory_pairs": len(known.named),
        "zero_shot": base.value(task.metric), "naming": sum(map(bool, known.named)),
        "showing": int(known.shows.sum()), "named_classes": int((pairs > 0).sum()),
        "shown_classes": int((known.counts(classes, shown=True) > 0).sum()), "classes": classes,
        "parts": {of: {name: {"photos": int(rows.sum()), "right": right(base, task.metric, rows)}
                       for name, rows in own.items()} for of, own in parts.items()},
        "methods": {},
    }  # fmt: skip
    key = f"{task.name} {split}"
    old = stored().get(key, {})
    if (old.get("fingerprint"), old.get("memory_pairs"), old.get("n")) == tuple(
        record[name] for name in ("fingerprint", "memory_pairs", "n")
    ):
        record |= {"methods": old["methods"]}

    def keep() -> None:
        write_whole(RESULTS, json.dumps(stored() | {key: record}, indent=1, ensure_ascii=False) + "\n")

    for name in methods:
        own = outcomes_of(name, context, samples, sources.work, seeds)
        record["methods"][name] = {
            "seeds": len(own), "gain": gained(own, base, task.metric),
            "parts": {of: {part: gained(own, base, task.metric, rows) for part, rows in those.items()}
                      for of, those in parts.items()},
            "moved": moved(own, base, task, known), "worst": worst(own, base, context, known),
        }  # fmt: skip
        print(key, name, " ".join(f"{edge:+.1f}" for edge in record["methods"][name]["gain"]), sep=" | ", flush=True)
        keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=TASKS, default="caltech101")
    parser.add_argument("--split", choices=("val", "train"), default="val")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--work", type=Path, default=Path("runs/systems"), help="the sets embedded by systems.py serve")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        sources = Sources(given.data, retroclip.load(given.model), given.work)
        measure(sources, Task.load(given.task), given.split, given.methods, given.seeds)
    from page_why import why_classes, why_moved, why_parts

    print(why_parts(), why_moved(), why_classes(), sep="\n\n")


if __name__ == "__main__":
    main()
