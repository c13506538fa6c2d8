"""Ablations of what consults a memory: python recipes/ablations.py ../shared/data [--task gtsrb] [--group tuning]

For each task an in-domain memory (`memories.py`: the task's `train` pairs and as many unrelated ones), and on it, by
groups of `variants.py` and `head_variants.py`: which search and which values RECO fuses (2 × 2), transformer against
mean, k, how much memory, another memory at test time, the same capacity without retrieval; RA-CLIP's depth and random
neighbours; what retrieval finds; tuning modes and losses; heads on the pairs that name a class, also on few of them, or
on a memory without any image of the task; and on that memory few labelled images with the base model and with the
customized one. Measured on `val`, trained ones with three seeds; nothing is chosen by it. A line a variant goes to
docs/results/ablations/TASK.json, with the paired differences that the papers' orderings are about. Killed and run again
this goes on after the last run. `--show` prints the tables of what is stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from head_variants import heads, heads_of_few
from memories import TASKS, Sources
from orderings import ORDERINGS
from variants import (
    Variant,
    fusions,
    low_shot,
    memory_sizes,
    random_neighbours,
    retrievals,
    tunings,
)

import retroclip
from retroclip.evaluation import Samples, load_samples
from retroclip.evaluation.bootstrap import paired_gain
from retroclip.evaluation.classification import answer
from retroclip.evaluation.comparison import circumstances, prepare_context
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.shots import without_evaluated
from retroclip.files import write_whole
from retroclip.methods import MethodContext, get_method
from retroclip.tasks import Task

RESULTS = Path("docs/results/ablations")
RESAMPLES = 1000
GROUPS: dict[str, tuple[str, Callable[[MethodContext], Iterator[Variant]]]] = {
    "fusion": ("in-domain", fusions),
    "memory": ("in-domain", memory_sizes),
    "noise": ("in-domain", random_neighbours),
    "retrieval": ("in-domain", retrievals),
    "tuning": ("in-domain", tunings),
    "heads": ("in-domain", heads),
    "heads-few": ("in-domain", heads_of_few),
    "heads-general": ("general", partial(heads, group="heads, general memory")),
    "low-shot-probe": ("general", partial(low_shot, how="linear probe")),
    "low-shot-tuning": ("general", partial(low_shot, how="fine-tuning")),
}
"""Which memory a group of variants is measured on, and what makes them."""


class Runs:
    """The outcomes of one task's variants, kept on disk so that a killed run goes on and pairs can be compared.

    Another model, memory, data set or default of a method means another folder, other options of a variant another
    file.
    """

    def __init__(self, folder: Path, context: MethodContext, samples: Samples) -> None:
        settings = json.dumps(circumstances(context, samples, []), sort_keys=True, default=str)
        self.folder = folder / hashlib.sha256(settings.encode()).hexdigest()[:12]
        self.context, self.samples = context, samples
        self.folder.mkdir(parents=True, exist_ok=True)

    def of(self, variant: Variant, seed: int) -> Outcome:
        """One run, taken from the disk if it is there."""
        known = json.dumps([variant.group, variant.name, variant.build.options], sort_keys=True, default=str)
        name = hashlib.sha256(known.encode()).hexdigest()[:12]
        file = self.folder / f"{name}-{seed}.npz"
        if not file.exists():
            context, state = self.context, file.with_suffix(".state")
            model = variant.build(seed, state)
            answer(model, context.task, self.samples, base=context.encoder).outcome.save(file)
            shutil.rmtree(state, ignore_errors=True)
        return Outcome.load(file)


def measure(sources: Sources, name: str, seeds: int, groups: list[str]) -> None:
    """The groups' variants on one task; rows of other groups stay as they were stored for the same model."""
    encoder, task = sources.encoder, Task.load(name)
    samples = load_samples(task, f"{sources.data / TASKS[name]}.parquet#val")
    labelled = load_samples(task, f"{sources.data / TASKS[name]}.parquet#train")
    base = answer(get_method("zero-shot")(MethodContext(encoder, None, task)), task, samples, base=encoder).outcome
    about = {
        "task": name, "model": encoder.name, "fingerprint": encoder.fingerprint, "split": "val", "n": len(samples),
        "metric": task.metric, "templates": len(task.templates), "zero_shot": float(base.value(task.metric)),
    }  # fmt: skip
    file = RESULTS / f"{name}.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    rows = {(row["group"], row["variant"]): row for row in stored.get("rows", [])}
    found = {(one["group"], one["better"], one["worse"]): one for one in stored.get("orderings", [])}
    if stored.get("fingerprint") != encoder.fingerprint or stored.get("n") != len(samples):
        rows, found = {}, {}
    contexts: dict[str, MethodContext] = {}
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    for group in groups:
        condition, variants = GROUPS[group]
        if condition not in contexts:
            context = prepare_context(encoder, task, samples, sources.memory(task, condition))
            contexts[condition] = replace(context, train=without_evaluated(labelled, [samples], encoder))
        context = contexts[condition]
        runs = Runs(sources.work / "ablations" / f"{name}-{condition}", context, samples)
        made = list(variants(context))
        rows, found = still_there(rows, found, {(one.group, one.name) for one in made})
        for variant in made:
            start = time.perf_counter()
            own = [runs.of(variant, seed) for seed in range(seeds if variant.trained else 1)]
            outcomes[variant.group, variant.name] = own
            rows[variant.group, variant.name] = row(variant, own, base, task.metric) | {
                "memory": condition, "memory_pairs": len(context.known_memory),
            }  # fmt: skip
            spent = time.perf_counter() - start
            value = rows[variant.group, variant.name]["value"]
            print(name, variant.group, variant.name, f"{100 * value:.1f}", f"{spent:.0f} s", sep=" | ", flush=True)
        for order in ORDERINGS:
            pair = [outcomes.get((order.group, one)) for one in (order.better, order.worse)]
            if pair[0] and pair[1]:
                gain, interval = paired_gain(pair[0], pair[1], task.metric, resamples=RESAMPLES)
                found[order.group, order.better, order.worse] = {
                    "group": order.group, "better": order.better, "worse": order.worse,
                    "difference": gain, "interval": list(interval),
                }  # fmt: skip
        RESULTS.mkdir(parents=True, exist_ok=True)
        record = about | {"rows": list(rows.values()), "orderings": list(found.values())}
        write_whole(file, json.dumps(record, indent=1) + "\n")


def still_there(
    rows: dict[tuple[str, str], Any], found: dict[tuple[str, str, str], Any], made: set[tuple[str, str]]
) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str, str], Any]]:
    """Stored rows and orderings without those that the groups of `made`, (group, variant), no longer have."""
    groups, asked = {group for group, _ in made}, {(one.group, one.better, one.worse) for one in ORDERINGS}
    kept = {key: row for key, row in rows.items() if key in made or key[0] not in groups}
    return kept, {key: one for key, one in found.items() if key in asked or key[0] not in groups}


def row(variant: Variant, outcomes: list[Outcome], base: Outcome, metric: str) -> dict[str, Any]:
    """What is stored of a variant: shares for the value and its deviation over seeds, points for the gain."""
    values = [float(outcome.value(metric)) for outcome in outcomes]
    gain, interval = paired_gain(outcomes, [base], metric, resamples=RESAMPLES)
    return {
        "group": variant.group, "variant": variant.name, "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "seeds": len(values),
        "gain": float(gain), "interval": [float(edge) for edge in interval],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--group", choices=GROUPS, action="append")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--work", type=Path, default=Path("runs/systems"), help="the sets embedded by systems.py serve")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        sources = Sources(given.data, retroclip.load(given.model), given.work)
        for name in given.task or TASKS:
            measure(sources, name, given.seeds, given.group or list(GROUPS))
    from page_systems import ablation_findings, ablations

    print(ablations(), ablation_findings(), sep="\n\n")


if __name__ == "__main__":
    main()
