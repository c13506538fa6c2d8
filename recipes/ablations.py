"""Ablations of the methods that consult a memory: python recipes/ablations.py ../shared/data [--task gtsrb] [--show]

For each task an in-domain memory (`memories.py`: the task's `train` pairs and as many unrelated ones), and on it, by
groups: which search and which values RECO fuses (2 × 2), transformer against mean, k, how much of the memory there is,
another memory at test time than in training, the same capacity without retrieval; RA-CLIP's depth; random neighbours;
methods that train nothing; what retrieval finds. Measured on `val`; nothing is chosen by it. A line a variant goes to
docs/results/ablations/TASK.json, and killed and run again this goes on after the last one. `--show` prints tables only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from memories import memory_pairs

import retroclip
from retroclip.classifiers import primed, real_linear, tip_adapter
from retroclip.evaluation import load_samples
from retroclip.evaluation.bootstrap import paired_gain
from retroclip.evaluation.classification import answer
from retroclip.evaluation.comparison import prepare_context
from retroclip.evaluation.leakage import without
from retroclip.evaluation.robustness import with_noise
from retroclip.methods import MethodContext, get_method
from retroclip.retrieval import named_classes, retrieve
from retroclip.tasks import Task
from retroclip.training import fuse

TASKS = {"intel-scenes": "intel_scenes", "gtsrb": "gtsrb_signs", "caltech101": "caltech101"}
RESULTS = Path("docs/results/ablations")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
Build = Callable[[int], Any]


@dataclass(frozen=True)
class Variant:
    """One row of a table: how to build the model for a seed; untrained ones are built once."""

    group: str
    name: str
    build: Build
    trained: bool = True


def fusions(context: MethodContext) -> Iterator[Variant]:
    """RECO's and RA-CLIP's ablations."""
    encoder, memory = context.encoder, context.known_memory

    def fused(**options: Any) -> Build:
        return lambda seed: fuse(encoder, memory, seed=seed, **options)

    for search in ("uni-modal", "cross-modal"):
        for values in ("cross-modal", "uni-modal"):
            for kind in ("reco", "mean"):
                options = {"search": search, "values": values, "kind": kind}
                yield Variant(
                    "search and values", f"{kind}: {search} search, {values} values", fused(**options), kind == "reco"
                )
    yield Variant("fusion", "mean", fused(kind="mean"), False)
    yield Variant("fusion", "mean, modality means taken out", fused(kind="centred-mean"), False)
    yield Variant("fusion", "RECO, identity start", fused(kind="reco"))
    yield Variant("fusion", "RECO, plain start", fused(kind="reco", init="plain"))
    yield Variant("fusion", "RECO, the same capacity without retrieval", fused(kind="reco", values="query"))
    for blocks in (1, 2, 3):
        yield Variant("fusion", f"RA-CLIP, {blocks} block(s)", fused(kind="ra-clip", blocks=blocks))
    yield Variant("fusion", "RA-CLIP, the same capacity without retrieval", fused(kind="ra-clip", values="query"))
    for k in (1, 3, 10, 30):
        yield Variant("neighbours", f"RECO, k = {k}", fused(kind="reco", k=k))


def memories(context: MethodContext) -> Iterator[Variant]:
    """How much memory there is, another one at test time, random neighbours."""
    encoder, memory = context.encoder, context.known_memory
    ids = memory.ids()
    order = np.random.default_rng(0).permutation(ids)

    def part(share: float) -> Any:
        return without(memory, np.sort(order[round(share * len(ids)) :]))

    for share in (1.0, 0.5, 0.25, 0.1):
        smaller = part(share)
        yield Variant(
            "memory size", f"RECO, {len(smaller)} pairs", lambda seed, own=smaller: fuse(encoder, own, seed=seed)
        )
    named = named_classes(
        [tuple(c or ()) for c in memory.take(ids, ["captions"])["captions"].to_pylist()], context.task
    )
    known = ids[[bool(own) for own in named]]
    others = without(memory, known)
    half, rest = without(memory, np.sort(order[: len(ids) // 2])), without(memory, np.sort(order[len(ids) // 2 :]))
    yield Variant(
        "another memory at test time", "RECO, one half, the same", lambda seed: fuse(encoder, half, seed=seed)
    )
    yield Variant(
        "another memory at test time", "RECO, trained on the other half",
        lambda seed: fuse(encoder, rest, seed=seed).with_memory(half),
    )  # fmt: skip
    yield Variant(
        "another memory at test time", "RECO, trained on the pairs that name no class, tested with all",
        lambda seed: fuse(encoder, others, seed=seed).with_memory(memory),
    )  # fmt: skip
    for kind in ("ra-clip", "reco", "mean"):
        for share in SHARES:
            yield Variant(
                "random neighbours", f"{kind}, {share:.0%} random",
                lambda seed, kind=kind, share=share: fuse(encoder, memory, kind=kind, seed=seed).with_memory(
                    with_noise(memory, share, seed)
                ),
                kind != "mean",
            )  # fmt: skip


def retrievals(context: MethodContext) -> Iterator[Variant]:
    """What retrieval finds, as primed, Tip-Adapter and REAL-Linear use it; and the methods that train nothing."""
    encoder, memory, task = context.encoder, context.known_memory, context.task
    for name in (
        "zero-shot",
        "primed",
        "tip-adapter",
        "tip-x",
        "real-prompt",
        "mean-neighbours",
        "mean-neighbours-centred",
    ):
        yield Variant("nothing trained", name, lambda seed, own=name: get_method(own)(context), False)
    settings: dict[str, dict[str, Any]] = {
        "t2t, k = 50": {"search": ("t2t",)},
        "t2i, k = 50": {"search": ("t2i",)},
        "both, k = 50": {},
        "both, k = 10": {"k": 10},
        "both, k = 200": {"k": 200},
        "both, CLIP score: lowest 6.5 % dropped": {"min_clip_score": "quantile"},
        "both, near-duplicates dropped": {"drop_repeats": True},
        "both, 16 a class by rank": {"max_per_class": 16},
        "both, 16 a class that cover the others": {"max_per_class": 16, "selection": "cover"},
    }
    users = {"primed": primed, "Tip-Adapter": tip_adapter, "REAL-Linear": real_linear}
    for what, options in settings.items():
        for name, use in users.items():

            def build(seed: int, what: str = what, options: Any = options, name: str = name, use: Any = use) -> Any:
                found = context.share(what, lambda: retrieve(memory, task, encoder=encoder, **options))
                return use(encoder, task, found, **({"seed": seed} if name == "REAL-Linear" else {}))

            yield Variant(f"retrieval, {name}", what, build, name == "REAL-Linear")


def measure(data: Path, name: str, work: Path, seeds: int) -> None:
    """All variants on one task that its file doesn't have yet."""
    encoder, task = retroclip.load("builtin"), Task.load(name)
    place = work / f"{name}-in-domain"
    if place.exists():
        memory = retroclip.Memory.open(place)
    else:
        memory = retroclip.Memory.create(place, encoder, [memory_pairs(data, task, TASKS[name], "in-domain")])
    samples = load_samples(task, f"{data / TASKS[name]}.parquet#val")
    context = prepare_context(encoder, task, samples, memory)
    base = answer(get_method("zero-shot")(context), task, samples, base=encoder).outcome
    file = RESULTS / f"{name}.json"
    record = json.loads(file.read_text()) if file.exists() else {"rows": []}
    about = {"task": name, "model": encoder.name, "split": "val", "n": len(samples), "metric": task.metric}
    about |= {"templates": len(task.templates), "memory_pairs": len(context.known_memory)}
    about |= {"near_duplicates_left_out": len(context.excluded_ids), "zero_shot": float(base.value(task.metric))}
    rows = record["rows"] if {k: v for k, v in record.items() if k != "rows"} == about else []
    done = {(row["group"], row["variant"]) for row in rows}
    for variants in (retrievals, fusions, memories):
        for variant in variants(context):
            if (variant.group, variant.name) in done:
                continue
            start = time.perf_counter()
            outcomes = [
                answer(variant.build(seed), task, samples, base=encoder).outcome
                for seed in range(seeds if variant.trained else 1)
            ]
            values = [float(outcome.value(task.metric)) for outcome in outcomes]
            gain, interval = paired_gain(outcomes, [base], task.metric, resamples=1000)
            rows.append({
                "group": variant.group, "variant": variant.name, "value": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "gain": float(gain),
                "interval": [float(edge) for edge in interval], "seconds": time.perf_counter() - start,
            })  # fmt: skip
            RESULTS.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
            print(name, variant.group, variant.name, f"{100 * rows[-1]['value']:.1f}", sep=" | ", flush=True)


def table() -> str:
    """All stored rows: a table a group, a column a task."""
    records = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        f"{r['task']}: {r['n']} images of `{r['split']}`, {r['metric']}, {r['templates']} template(s), {r['model']}, "
        f"{r['memory_pairs']} pairs, zero-shot {100 * r['zero_shot']:.1f}"
        for r in records
    ]
    cells = {(row["group"], row["variant"], r["task"]): row for r in records for row in r["rows"]}
    for group in dict.fromkeys(group for group, _, _ in cells):
        head = [group, *(f"{r['task']} | gain, 95 %" for r in records)]
        lines += ["", f"| {' | '.join(head)} |", "| --- |" + " ---: | ---: |" * len(records)]
        for variant in dict.fromkeys(v for g, v, _ in cells if g == group):
            own = [cells.get((group, variant, r["task"])) for r in records]
            lines.append(f"| {variant} | " + " | ".join(map(shown, own)) + " |")
    return "\n".join(lines)


def shown(row: dict[str, Any] | None) -> str:
    if row is None:
        return "– | –"
    spread = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
    low, high = row["interval"]
    return f"{100 * row['value']:.1f}{spread} | {100 * low:+.1f} to {100 * high:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    for name in () if given.show else given.task or TASKS:
        measure(given.data, name, given.work, given.seeds)
    print(table())


if __name__ == "__main__":
    main()
