"""RA-CLIP's pre-training beside the same without a reference set, in small: python recipes/ra_clip.py ../shared/data

The same tower, seed, steps and pairs (`ra-clip.yaml`); plain CLIP trains on all of them, RA-CLIP on nine tenths and
looks up the other one. Measured on `val`: zero-shot top-1, also with a share of the neighbours drawn at random,
image-text retrieval, and RA-CLIP's linear probe. Written to docs/results/ra-clip.json; killed and run again, it goes on
where it was. `--tasks` and `--slices` measure other tasks, and slices of `train` in the place of `val` (to choose by).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from choose import slice_of
from torch import Tensor

import retroclip
from retroclip.evaluation import Outcome, evaluate_retrieval, load_samples
from retroclip.evaluation.bootstrap import bootstrap_interval, paired_gain
from retroclip.evaluation.protocols import run_protocol
from retroclip.files import whole_file, write_whole
from retroclip.fusion import ReferenceEncoder
from retroclip.training.pretrain import read_recipe
from retroclip.training.pretraining import FormalClipRecipe, PretrainRecipe, pretrain

RECIPE = Path(__file__).with_name("ra-clip.yaml")
PLAIN = "plain"
VARIANTS: dict[str, dict[str, Any]] = {"ra-clip": {}, PLAIN: {}, "ra-clip, length √d": {"length": 192**0.5}}
TASKS = {"cifar10": 32, "caltech101": 5, "intel-scenes": 3}
"""Each with the n of a slice of `train`: every n-th photo."""
PROBES = ("intel-scenes", "caltech101")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
VIEWS = 1


class Kept:
    """The frozen retriever, whose embeddings of the same images are made once for all models and kept on disk."""

    def __init__(self, retriever: Any, folder: Path) -> None:
        self.retriever, self.folder = retriever, folder / retriever.fingerprint[:8]
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        if name == "retriever":
            raise AttributeError(name)
        return getattr(self.retriever, name)

    def encode_images(self, images: Sequence[Any] | Tensor, **options: Any) -> Tensor:
        """As the retriever's own: encoded images or pixels (n, 3, h, w) → (n, r), unit norm."""
        digest = hashlib.blake2b(digest_size=16)
        for image in images:
            digest.update(image.numpy().tobytes() if isinstance(image, Tensor) else image)
        file = self.folder / f"{digest.hexdigest()}.npy"
        if not file.exists():
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, self.retriever.encode_images(images, **options).numpy())
        return torch.from_numpy(np.load(file))


class Figures:
    """The outcomes of one model, each made once: on disk, with `metrics` and the circumstances beside the outcome."""

    def __init__(self, model: Any, data: Path, folder: Path, *, slices: bool = False) -> None:
        self.model, self.data, self.slices = model, data, slices
        self.folder = folder / model.fingerprint[:8]
        self.folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str) -> tuple[Outcome, dict[str, Any]]:
        """The outcome called "TASK at SHARE", "probe TASK" or "flickr8k"."""
        stem = self.folder / f"{'slice ' if self.slices else ''}{name}".replace(" ", "-")
        outcome, note = stem.with_name(stem.name + ".npz"), stem.with_name(stem.name + ".json")
        if not note.exists():
            result = self._measured(name)
            result.outcomes[0].save(outcome)
            kept = ("n", "metrics", "baselines", "memory_pairs", "excluded_near_duplicates", "split", "fingerprint")
            write_whole(note, json.dumps({field: getattr(result, field) for field in kept}))
        return Outcome.load(outcome), json.loads(note.read_text())

    def _measured(self, name: str) -> Any:
        if name == "flickr8k":
            return evaluate_retrieval(self.model, f"{self.data / 'flickr8k.parquet'}#val", resamples=0)
        if name.startswith("probe "):
            task = name.removeprefix("probe ")
            options = {"linear-probe-sgd": {"views": VIEWS}}
            train = f"{self.file(task)}#train"
            given: dict[str, Any] = {"methods": ["linear-probe-sgd"], "seeds": [0], "options": options, "train": train}
            results = retroclip.compare(self.model, task, f"{self.file(task)}#val", None, resamples=0, **given)
            return results[-1]
        task, share = name.split(" at ")
        dataset: Any = f"{self.file(task)}#val"
        if self.slices:
            dataset = load_samples(retroclip.Task.load(task), slice_of(self.data, task, TASKS[task]))
        if not isinstance(self.model, ReferenceEncoder):
            return retroclip.evaluate(self.model, task, dataset, resamples=0)
        loaded = retroclip.Task.load(task)
        options = {"share": float(share), "resamples": 0}
        return run_protocol("corrupted-neighbours", self.model, loaded, dataset, options=options)

    def file(self, task: str) -> Path:
        return self.data / f"{task.replace('-', '_')}.parquet"


def recipe_of(variant: str, data: Path, work: Path) -> PretrainRecipe:
    """The recipe's settings; `plain` has all pairs to train on and no reference set."""
    place = work / variant.replace(", ", "-").replace(" ", "-").replace("√", "sqrt-")
    given = {"data": str(data), "work": str(place), "out": str(place / "model")}
    recipe = read_recipe(RECIPE, given | VARIANTS[variant])
    if variant != PLAIN:
        return recipe
    fields = {name: getattr(recipe, name) for name in FormalClipRecipe.model_fields}
    return FormalClipRecipe(**fields | {"kind": "formal-clip"})


def trained(variant: str, data: Path, work: Path) -> Any:
    """The model of a variant, trained where it isn't there yet."""
    recipe = recipe_of(variant, data, work)
    if not recipe.out.exists():
        pretrain(recipe, lambda line: print(variant, line, flush=True))
    model = retroclip.load(str(recipe.out), precision="fp32")
    if isinstance(model, ReferenceEncoder):
        model.retriever = Kept(model.retriever, work / "looked-up")
    return model


def names_of(variant: str, tasks: Sequence[str], *, slices: bool) -> list[str]:
    """What is measured of a variant, in this order."""
    shares = SHARES if variant != PLAIN else SHARES[:1]
    shown = [f"{task} at {share:g}" for task in tasks for share in shares]
    probes = PROBES[:1] if VARIANTS[variant] else PROBES  # each embeds thousands of crops anew
    return shown if slices else [*shown, "flickr8k", *(f"probe {task}" for task in probes)]


def figure(outcome: Outcome, note: dict[str, Any], base: Outcome | None) -> dict[str, Any]:
    """Top-1 (image → text recall at 1) in % with its interval, and the gain over plain CLIP in points with its own."""
    low, high = bootstrap_interval([outcome], "top1")
    found = {"value": 100 * outcome.value("top1"), "interval": [100 * low, 100 * high], **note}
    if base is not None:
        found["gain"], found["gain_interval"] = paired_gain([outcome], [base], "top1")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/ra-clip"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/ra-clip.json"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--slices", action="store_true", help="slices of train, which are printed and not written")
    given = parser.parse_args()
    recipe = recipe_of("ra-clip", given.data, given.work)
    rows = {} if given.slices else kept(given.out, recipe)
    if all(set(names_of(name, given.tasks, slices=False)) <= set(rows.get(name, {})) for name in given.variants):
        return
    models = {name: trained(name, given.data, given.work) for name in given.variants}
    places = {"data": given.data, "folder": given.work / "figures"}
    figures = {name: Figures(model, **places, slices=given.slices) for name, model in models.items()}
    # Plain CLIP first: the others' gains are over it.
    for variant in sorted(models, key=lambda name: name != PLAIN):
        rows[variant] = {}
        for name in names_of(variant, given.tasks, slices=given.slices):
            outcome, note = figures[variant].of(name)
            same = f"{name.split(' at ')[0]} at 0" if " at " in name else name
            base = figures[PLAIN].of(same)[0] if PLAIN in figures and variant != PLAIN else None
            rows[variant][name] = figure(outcome, note, base)
            print(variant, name, f"{rows[variant][name]['value']:.1f}", sep=" | ", flush=True)
            if not given.slices:
                write_whole(given.out, json.dumps({**settings(recipe), "variants": rows}, indent=1) + "\n")


def kept(file: Path, recipe: PretrainRecipe) -> dict[str, dict[str, Any]]:
    """The figures in the file, if they are of this recipe."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    same = {name: stored.get(name) for name in settings(recipe)} == settings(recipe)
    return stored["variants"] if same else {}


def settings(recipe: PretrainRecipe) -> dict[str, Any]:
    """What stands above the figures: what they are, and what was trained how."""
    return {
        "metric": "top-1, %; of retrieval image → text recall at 1; 95 % bootstrap intervals over the images",
        "seed": recipe.seed,
        "steps": recipe.steps,
        "model": recipe.model,
        "batch": {source.name: source.share for source in recipe.sources},
        "views of the probe": VIEWS + 1,
    }


if __name__ == "__main__":
    main()
