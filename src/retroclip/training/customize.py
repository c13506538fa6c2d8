"""Customize: tune a model on the pairs that were retrieved for a task (REACT, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.encoders.attention import flat_attention
from retroclip.encoders.consulting import refuse_consulting
from retroclip.errors import RetroclipError
from retroclip.training.chunks import has_batch_norms, refuse_batch_norms
from retroclip.training.distributed import start
from retroclip.training.examples import prepare
from retroclip.training.loop import fit
from retroclip.training.losses import (
    balanced_bias,
    distillation_loss,
    multi_positive_loss,
    positives,
    sigmoid_loss,
    text_positives,
)
from retroclip.training.recipes import ANEW, chosen
from retroclip.training.tuning import TUNINGS, Towers
from retroclip.training.views import AUGMENTATIONS

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved

POSITIVES = ("class", "named", "caption")
LOSSES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Terms:
    """What the loss is made of; the defaults are REACT's.

    `positives`: which pairs of a batch are positives of each other. "class": those that one class found best; "named":
    those whose captions name one class, all others being their own class [D]; "caption": captions with a cosine of at
    least 0.9, REACT's general form. `class_texts`: weight of iCAR's classification term, pairs that name a class
    against the task's class texts [D]. `distillation`: weight of staying where the untuned model is, for pairs that
    name no class or aren't trusted [D]. `loss`: "softmax", REACT's, or "sigmoid", SigLIP's, with a trained bias.
    """

    positives: str = "class"
    loss: str = "softmax"
    class_texts: float = 0.0
    distillation: float = 0.0


class Contrast(nn.Module):
    """The loss of a batch of `Examples`. Only what is trained is registered, and so optimised and checkpointed."""

    def __init__(self, towers: Towers, prompts: Tensor, terms: Terms, counts: Tensor | None = None) -> None:
        """`counts` (K,): how many of all pairs name each class alone, for the `class_texts` term."""
        super().__init__()
        self.trained = nn.ParameterList(towers.trained())
        self.bias = nn.Parameter(torch.zeros((), device=towers.encoder.device)) if terms.loss == "sigmoid" else None
        self._towers, self._prompts, self._terms = (towers,), prompts, terms
        self._counts = torch.ones(len(prompts)) if counts is None else counts

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        (towers,), terms = self._towers, self._terms
        u, v, scale = towers.image(batch["images"]), towers.text(batch["texts"]), towers.scale()
        named, trust = batch["named"].to(u.device), batch["trust"].to(u.device)
        # A pair that names a class counts as far as it is trusted, others fully: they are only their own positives.
        weights = torch.where(named >= 0, trust, torch.ones_like(trust))
        same = self._positive(batch, v)
        if self.bias is None:
            values = {"contrast": multi_positive_loss(u, v, same, scale, weights)}
        else:
            values = {"contrast": sigmoid_loss(u, v, same, scale, self.bias, weights)}
        loss = values["contrast"]
        if terms.class_texts or terms.distillation:
            prompts = towers.text(self._prompts)
        if terms.class_texts:
            values["classes"] = named_classification(u, prompts, named, trust, scale, self._counts.to(u.device))
            loss = loss + terms.class_texts * values["classes"]
        if terms.distillation:
            rest = 1 - trust
            texts = torch.cat([v, prompts]).detach()
            kept = distillation_loss(u, batch["base"].to(u.device), texts, scale.detach(), weights=rest)
            values["kept"] = kept
            loss = loss + terms.distillation * kept
        return {"loss": loss, "logit_scale": scale, **values}

    def _positive(self, batch: dict[str, Tensor], v: Tensor) -> Tensor:
        """Which pairs of a batch are positives of each other: boolean (B, B)."""
        return {
            "class": lambda: positives(batch["labels"].to(v.device)),
            "named": lambda: positives(batch["named"].to(v.device)),
            "caption": lambda: text_positives(v.detach()),
        }[self._terms.positives]()

    @torch.no_grad()
    def start_bias(self, batch: dict[str, Tensor]) -> None:
        """Set the sigmoid's bias by a first batch (`balanced_bias`)."""
        assert self.bias is not None
        (towers,) = self._towers
        u, v = towers.image(batch["images"]), towers.text(batch["texts"])
        self.bias.fill_(balanced_bias(towers.scale() * u @ v.T, self._positive(batch, v)))


def named_classification(
    u: Tensor, prompts: Tensor, named: Tensor, trust: Tensor, scale: Tensor, counts: Tensor
) -> Tensor:
    """iCAR's Eq. 4 over the pairs that name a class (`named` ≥ 0), each counting `trust`; mean over the whole batch.

    u (B, d), prompts (K, d), named and trust (B,). Of the n = `counts` (K,) pairs of a class each counts n̄/n at most 1,
    n̄ the mean over the classes that have any, times n/(n + 1); a class without pairs is nobody's negative [D].
    """
    present = counts > 0
    share = (counts[present].float().mean() / counts.clamp_min(1)).clamp_max(1) * counts / (counts + 1)
    logits = (scale * u @ prompts.T).masked_fill(~present, -torch.inf)
    is_named = named >= 0
    losses = F.cross_entropy(logits[is_named], named[is_named], reduction="none")
    return (losses * (trust * share[named.clamp_min(0)])[is_named]).sum() / len(u)


def customize(
    encoder: Encoder,
    retrieved: Retrieved,
    *,
    tuning: str = "gated-image",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup: float | None = None,
    gates: int | None = None,
    views: int | Literal["anew"] | None = None,
    augmentation: str | None = None,
    recipe: str = "anchored",
    positives: str | None = None,
    loss: str = "softmax",
    class_texts: float | None = None,
    distillation: float | None = None,
    others: float | None = None,
    borrow: float | None = None,
    token_drop: float | None = None,
    cleaned: bool = False,
    micro_batch: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> Encoder:
    """A copy of `encoder` tuned on the pairs retrieved for a task (REACT).

    `recipe` names the set of `recipes.RECIPES` that holds where nothing else is given: "anchored" is ours, "react" has
    REACT's loss, "react-published" all that its authors publish. `tuning` is one of `TUNINGS`, with its own `lr`;
    `gates` blocks are gated (default: half of them, at most 6). Without `epochs` gates get more of them on few
    pairs than the recipe says, for 30 steps at least [D]. `views` augmented views of each image are made
    beforehand, besides the plain one, and one is drawn at each step: so whatever is frozen is computed once a view.
    Or "anew": another view at every epoch and never the plain one, as REACT trains, for which the frozen part runs
    at every step. `augmentation`: "mild", or "react" for REACT's own (small crops, RandAugment, erasing). `warmup`
    is a share of all steps. `positives`, `class_texts` and `distillation` are `Terms`, as `loss` is; `others` keeps
    at most so many pairs that name no class for each that names one; `borrow` gives a pair that names no class a
    caption of its neighbours where that share of them names one (`borrow_captions`) [D];
    `token_drop` hides that share of an image's tokens from what is trained, for speed, where the layers below are
    computed beforehand (FLIP, Li et al. 2023). `cleaned` trusts a pair only as far as its neighbours' captions agree
    with its own (`evidence`). `micro_batch` encodes so many pairs of a batch at a time, twice each, and keeps nothing
    else of them (GradCache): for large batches in small memory, with the same loss and gradients.
    Pairs without caption are left out.

    The result has `history` and `trained_parameters`; `encoder` isn't touched. With `checkpoint` a killed run goes on.
    Under `torchrun` the processes share each batch's rows out, and all return the same model.
    Raises RetroclipError for an unknown tuning or recipe or no usable pair, ModelError where a tower can't be gated and
    for a model that consults a memory or a reference set.

    >>> custom = customize(encoder, retrieve(memory, task), tuning="gated-image", epochs=1)
    >>> evaluate(custom, task, "labelled/").n
    20
    """
    if tuning not in TUNINGS:
        raise RetroclipError(f"no tuning is called {tuning!r}: choose one of {', '.join(TUNINGS)}")
    refuse_consulting(encoder, "customize the model beneath it, then fuse that")
    given = {"positives": positives, "class_texts": class_texts, "distillation": distillation}
    given |= {"others": others, "borrow": borrow, "token_drop": token_drop}
    given |= {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "warmup": warmup}
    given |= {"views": views, "augmentation": augmentation, "micro_batch": micro_batch}
    own = chosen(recipe, tuning, given)
    if own["positives"] not in POSITIVES:
        raise RetroclipError(f"positives can't be {positives!r}: choose one of {', '.join(POSITIVES)}")
    if own["augmentation"] not in AUGMENTATIONS:
        raise RetroclipError(f"augmentation can't be {augmentation!r}: choose one of {', '.join(AUGMENTATIONS)}")
    if own["augmentation"] != "mild" and not own["views"]:
        drawn = own["augmentation"]
        raise RetroclipError(f"augmentation {drawn!r} is for augmented views: ask for some, such as views=4")
    if isinstance(own["views"], str) and own["views"] != ANEW:
        raise RetroclipError(f"views can't be {views!r}: give a number, or {ANEW!r}")
    if micro_batch is not None and micro_batch < 1:
        raise RetroclipError(f"micro_batch is {micro_batch}: it is a number of pairs, such as 32")
    if loss not in LOSSES:
        raise RetroclipError(f"a loss can't be {loss!r}: choose one of {', '.join(LOSSES)}")
    start()
    torch.manual_seed(seed)
    towers = Towers(encoder, TUNINGS[tuning], gates=gates, token_drop=own["token_drop"], micro_batch=own["micro_batch"])
    if micro_batch is None and has_batch_norms(towers.model):
        towers.micro_batch = None  # of the recipe; nobody asked for it
    refuse_batch_norms(towers.model, towers.micro_batch)
    shown: dict[str, Any] = {"views": own["views"], "augmentation": own["augmentation"], "seed": seed}
    examples = prepare(towers, retrieved, cleaned=cleaned, others=own["others"], borrow=own["borrow"], **shown)
    steps = own["epochs"] * -(-len(examples) // own["batch_size"])
    if epochs is None and TUNINGS[tuning].gated:
        steps = max(steps, own["fewest_steps"])
    terms = Terms(own["positives"], loss, own["class_texts"], own["distillation"])
    objective = Contrast(towers, examples.prompts, terms, examples.counts)
    batches = examples.batches(own["batch_size"], seed)
    if loss == "sigmoid":
        objective.start_bias(next(iter(batches(0))))
    with flat_attention(towers.model):
        history = fit(
            objective,
            batches,
            steps=steps,
            lr=own["lr"],
            weight_decay=own["weight_decay"],
            betas=(0.9, 0.98),
            eps=own["eps"],
            warmup=round(own["warmup"] * steps),
            after_step=towers.clamp_scale,
            checkpoint=checkpoint,
            save_every=max(1, steps // 20),
            log_every=max(1, steps // 100),
            on_log=on_log,
            seed=seed,
        )
    trained = sum(parameter.numel() for parameter in objective.parameters())
    towers.model.requires_grad_(False)
    custom = encoder.with_model(towers.model, name=f"{encoder.name} customized ({tuning}) for {retrieved.task.name}")
    custom.history, custom.trained_parameters = history, trained
    return custom
