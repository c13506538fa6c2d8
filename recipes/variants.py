"""The variants that `ablations.py` measures, by groups; `orderings.py` has what the papers say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from orderings import WITHOUT

from retroclip.classifiers import primed, real_linear, sgd_probe, tip_adapter
from retroclip.evaluation.leakage import without
from retroclip.evaluation.robustness import with_noise
from retroclip.evaluation.shots import draw_shots
from retroclip.methods import MethodContext
from retroclip.retrieval import matched_pairs, named_classes, retrieve
from retroclip.training import customize, fine_tune, fuse
from retroclip.training.pseudo import pseudo_labelled
from retroclip.training.tuning import TUNINGS

NOISE = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOTS = (5, 20, 50, None)
LOW_SHOT_TASKS = ("intel-scenes", "flower-photos")
"""Tasks whose training sets are small enough to be fine-tuned on 48 times."""


@dataclass(frozen=True)
class Build:
    """How to build a model for a seed: `make(seed)`. `options` are what `make` was given: other ones, another run.

    One that `resumes` is made by `make(seed, state)`, with a folder from which a killed training goes on.
    """

    make: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    resumes: bool = False

    def __call__(self, seed: int, state: Path | None = None) -> Any:
        return self.make(seed, state) if self.resumes else self.make(seed)


@dataclass(frozen=True)
class Variant:
    """One row of a table: how to build the model for a seed; untrained ones are built once."""

    group: str
    name: str
    build: Build
    trained: bool = True


def fused(context: MethodContext, **options: Any) -> Build:
    """A fusion trained on the memory; two variants that are the same one train it once."""

    chosen = {"kind": "reco", "k": 10, "search": "uni-modal", "values": "cross-modal"} | options

    def make(seed: int) -> Any:
        key = ("fused", seed, *sorted(chosen.items()))
        return context.share(key, lambda: fuse(context.encoder, context.known_memory, seed=seed, **chosen))

    return Build(make, chosen)


def fusions(context: MethodContext) -> Iterator[Variant]:
    """RECO's and RA-CLIP's ablations."""
    for search in ("uni-modal", "cross-modal"):
        for values in ("cross-modal", "uni-modal"):
            for kind in ("reco", "mean"):
                build = fused(context, search=search, values=values, kind=kind)
                yield Variant("search and values", f"{kind}: {search} search, {values} values", build, kind == "reco")
    yield Variant("fusion", "mean", fused(context, kind="mean"), False)
    yield Variant("fusion", "mean, modality means taken out", fused(context, kind="centred-mean"), False)
    trained: dict[str, dict[str, Any]] = {
        "RECO, identity start": {},
        "RECO, plain start": {"init": "plain"},
        "RA-CLIP, 1 block": {"kind": "ra-clip", "blocks": 1},
    }
    for name, options in trained.items():
        yield Variant("fusion", name, fused(context, **options))
        yield Variant("fusion", f"{name}{WITHOUT}", fused(context, values="query", **options))
    for blocks in (2, 3):
        yield Variant("fusion", f"RA-CLIP, {blocks} blocks", fused(context, kind="ra-clip", blocks=blocks))
    for k in (1, 3, 10, 30):
        yield Variant("neighbours", f"RECO, k = {k}", fused(context, k=k))


def memory_sizes(context: MethodContext) -> Iterator[Variant]:
    """How much memory there is, another one at test time, random neighbours."""
    encoder, memory = context.encoder, context.known_memory
    ids = memory.ids()
    order = np.random.default_rng(0).permutation(ids)

    def part(share: float) -> Any:
        return without(memory, np.sort(order[round(share * len(ids)) :]))

    def on(share: float) -> Build:
        own = part(share)
        return Build(lambda seed: fuse(encoder, own, seed=seed), {"share": share})

    yield Variant("memory size", "RECO, whole memory", fused(context))
    for name, share in (("a half", 0.5), ("a quarter", 0.25), ("a tenth", 0.1)):
        yield Variant("memory size", f"RECO, {name}", on(share))
    captions = [tuple(own or ()) for own in memory.take(ids, ["captions"])["captions"].to_pylist()]
    known = ids[[bool(own) for own in named_classes(captions, context.task)]]
    half, rest = part(0.5), without(memory, np.sort(order[: round(0.5 * len(ids))]))
    group = "another memory at test time"
    yield Variant(group, "RECO, one half, the same", on(0.5))
    other = Build(lambda seed: fuse(encoder, rest, seed=seed).with_memory(half), {"share": 0.5})
    yield Variant(group, "RECO, trained on the other half", other)
    unnamed = Build(lambda seed: fuse(encoder, without(memory, known), seed=seed).with_memory(memory))
    yield Variant(group, "RECO, trained on the pairs that name no class, tested with all", unnamed)


def random_neighbours(context: MethodContext) -> Iterator[Variant]:
    """RA-CLIP's test of robustness: a share of the neighbours is random at test time."""
    for kind in ("ra-clip", "reco", "mean"):
        trained = fused(context, kind=kind, **({"blocks": 1} if kind == "ra-clip" else {}))
        for share in NOISE:

            def make(seed: int, trained: Build = trained, share: float = share) -> Any:
                return trained(seed).with_memory(with_noise(context.known_memory, share, seed))

            build, drawn = Build(make, {**trained.options, "random": share}), kind != "mean" or share > 0
            yield Variant("random neighbours", f"{kind}, {100 * share:.0f} % random", build, drawn)


def found_by(context: MethodContext, what: str, **options: Any) -> Any:
    """What retrieval finds under some settings, once for all variants."""
    memory, task, encoder = context.known_memory, context.task, context.encoder
    return context.share(("found", what), lambda: retrieve(memory, task, encoder=encoder, **options))


def retrievals(context: MethodContext) -> Iterator[Variant]:
    """What retrieval finds, as gated-image, primed, Tip-Adapter and REAL-Linear use it."""
    encoder, task = context.encoder, context.task
    settings: dict[str, dict[str, Any]] = {
        "t2t": {"search": ("t2t",)},
        "t2i": {"search": ("t2i",)},
        "both": {},
        "both, k = 10": {"k": 10},
        "both, k = 200": {"k": 200},
        "both, CLIP score: lowest 6.5 % dropped": {"min_clip_score": "quantile"},
        "both, near-duplicates dropped": {"drop_repeats": True},
        "both, 16 a class by rank": {"max_per_class": 16},
        "both, 16 a class that cover the others": {"max_per_class": 16, "selection": "cover"},
    }

    def matched_head(found: Any, seed: int) -> Any:
        rows, labels = matched_pairs(found.captions, task, seed=seed)
        return real_linear(encoder, task, found.image_embeddings[rows], labels)

    users: dict[str, Callable[[Any, int], Any]] = {
        "primed": lambda found, seed: primed(encoder, task, found),
        "Tip-Adapter": lambda found, seed: tip_adapter(encoder, task, found),
        "REAL-Linear": matched_head,
        "gated-image": lambda found, seed: customize(encoder, found, seed=seed),
    }
    for name, use in users.items():
        for what, options in settings.items():

            def make(seed: int, what: str = what, options: Any = options, use: Any = use) -> Any:
                return use(found_by(context, what, **options), seed)

            yield Variant(f"retrieval, {name}", what, Build(make, options), name in ("REAL-Linear", "gated-image"))


def tunings(context: MethodContext) -> Iterator[Variant]:
    """REACT's tuning modes on the same retrieved pairs, and what the loss is made of."""

    def tuned(**options: Any) -> Build:
        return Build(lambda seed: customize(context.encoder, found_by(context, "both"), seed=seed, **options), options)

    for tuning in TUNINGS:
        yield Variant("tuning", tuning, tuned(tuning=tuning))
    yield Variant("loss", "gated-image, ours", tuned())
    yield Variant("loss", "gated-image, REACT's loss", tuned(recipe="react"))
    yield Variant("loss", "gated-image, SigLIP's loss", tuned(loss="sigmoid"))

    options: dict[str, Any] = {"recipe": "react"}

    def self_trained(seed: int) -> Any:
        found = found_by(context, "both")
        pseudo = context.share("pseudo-labelled", lambda: pseudo_labelled(context.encoder, found))
        return customize(context.encoder, pseudo, seed=seed, **options)

    yield Variant("loss", "self-training", Build(self_trained, options))


def low_shot(context: MethodContext, how: str) -> Iterator[Variant]:
    """5, 20, 50 and all labelled images: the base and what was customized on a memory that has no image of the task
    (in the in-domain one stand the training images, with captions that name their class).

    `how`: a "linear probe", in minutes, or "fine-tuning" of the whole image tower, about an hour a task.
    """
    if context.task.name not in LOW_SHOT_TASKS or context.train is None:
        return
    task, train = context.task, context.train

    def model(which: str, seed: int) -> Any:
        if which == "base":
            return context.encoder
        return context.share(
            ("customized", seed), lambda: customize(context.encoder, found_by(context, "both"), seed=seed)
        )

    def taken(shots: int | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.from_numpy(train.labels)
        rows = draw_shots(labels, shots, len(task.classes), seed=seed)
        return rows, labels[rows]

    def probe(which: str, start: str, shots: int | None) -> Build:
        def make(seed: int) -> Any:
            own = model(which, seed)
            key = ("features", which, seed if which != "base" else None)
            features = context.share(key, lambda: own.encode_images(train.images))
            rows, labels = taken(shots, seed)
            return sgd_probe(own, task, features[None, rows], labels, init=start, seed=seed)

        return Build(make, {"init": start, "shots": shots})

    def tune(which: str, start: str, shots: int | None) -> Build:
        # The whole image tower, as in ELEVATER; a customized one has gates already.
        options: dict[str, Any] = {"tuning": "locked-text", "init": start}

        def make(seed: int, state: Path | None) -> Any:
            rows, labels = taken(shots, seed)
            images = [train.images[row] for row in rows.tolist()]
            return fine_tune(model(which, seed), task, images, labels, seed=seed, checkpoint=state, **options)

        return Build(make, {**options, "shots": shots}, resumes=True)

    group, learnt = f"low-shot, {how}", {"linear probe": probe, "fine-tuning": tune}[how]
    for which in ("base", "customized"):
        plain = Build(lambda seed, which=which: model(which, seed))
        yield Variant(group, f"{which}, none", plain, which != "base")
        for start in ("text", "random"):
            for shots in SHOTS:
                name = f"{which}, {start} start, {'all' if shots is None else f'{shots} shots'}"
                yield Variant(group, name, learnt(which, start, shots))
