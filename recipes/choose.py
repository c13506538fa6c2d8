"""Compare customizations on a slice of Caltech-101 `train`: python recipes/choose.py ../shared/data default borrow=2

Every fourth photo of `train` (by a hash of its key) is what is measured; the others are in the memory, under the chosen
condition, so that nothing is chosen on `val`. Each further argument is one customization to try: options of
`retroclip.customize` with commas between (`tuning=locked-text,borrow=2`); "default" is the one that it takes by itself.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import Any

import yaml
from memories import CONDITIONS, memory_pairs

import retroclip
from retroclip.evaluation import evaluate
from retroclip.pairs import LabelledSet, load_labelled
from retroclip.tasks import Task

TASK = "caltech101"
SLICES = ((TASK, 4), ("intel-scenes", 3), ("cifar10", 26))
"""Of each task every n-th photo of `train` is measured, the last two for what is forgotten."""


def slice_of(data: Path, name: str, every: int) -> LabelledSet:
    """Every so many photos of a set's `train` split, by a hash of their keys."""
    whole = load_labelled(f"{data / name.replace('-', '_')}.parquet#train")
    rows = [row for row, key in enumerate(whole.keys) if zlib.crc32(key.encode()) % every == 0]
    return LabelledSet(name, "train", *([part[r] for r in rows] for part in (whole.keys, whole.images, whole.labels)))


def options(text: str) -> dict[str, Any]:
    return {} if text == "default" else {k: yaml.safe_load(v) for k, v in (o.split("=", 1) for o in text.split(","))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("customizations", nargs="+", type=options)
    parser.add_argument("--condition", choices=CONDITIONS, default="in-domain")
    parser.add_argument("--work", type=Path, default=Path("runs/choose"))
    parser.add_argument("--model", default="builtin")
    given = parser.parse_args()

    encoder, task = retroclip.load(given.model), Task.load(TASK)
    place = given.work / f"{TASK}-{given.condition}-{encoder.fingerprint[:8]}"
    slices = [(Task.load(name), slice_of(given.data, name, every)) for name, every in SLICES]
    if place.exists():
        memory = retroclip.Memory.open(place)
    else:
        held = set(slices[0][1].keys)
        pairs = [pair for pair in memory_pairs(given.data, task, TASK, given.condition) if pair.key not in held]
        memory = retroclip.Memory.create(place, encoder, [pairs])
    found = retroclip.retrieve(memory, task)
    for chosen in [None, *given.customizations]:
        model = encoder if chosen is None else retroclip.customize(encoder, found, **chosen)
        values = [
            f"{own.name} {100 * (evaluate(model, own, data).value or 0.0):.1f} (n = {len(data)})"
            for own, data in slices
        ]
        print("untuned" if chosen is None else chosen or "default", *values, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
