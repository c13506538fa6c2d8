"""Linear probes: a linear classifier on the embeddings of labelled images, the encoder frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import LinearClassifier
from retroclip.classifiers.linear import as_history
from retroclip.classifiers.logistic import LogisticProblem, sweep
from retroclip.classifiers.zero_shot import class_texts
from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

FOLDS = 5
ALL_FOLDS_BELOW = 5000  # rows; above, one held-out fifth tells enough
ONE_SHOT_C = 100.0
FEATURE_NORM = 10.0
"""What embeddings are scaled to for SGD [D]: about the norm of CLIP's raw features, for which its rates are meant."""
INITS = ("random", "text")


def fold_of(labels: Tensor, folds: int, *, seed: int = 0) -> Tensor:
    """The fold (n,) of each row, such that every class is spread over all folds as evenly as it can be."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    starts = torch.searchsorted(labels[order], labels[order])
    assigned = torch.empty_like(labels)
    assigned[order] = (torch.arange(len(labels)) - starts) % folds
    return assigned


def choose_c(
    features: Tensor, labels: Tensor, n_classes: int, *, prior: Tensor | None = None, seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The strength C by CLIP's sweep, scored by top-1 on held-out folds of these very rows, and all scores.

    Up to five folds, each scored in turn where there are fewer than 5,000 rows. With one row a class there is nothing
    to hold out: C is `ONE_SHOT_C`.
    """
    smallest = int(torch.bincount(labels, minlength=n_classes).amin())
    folds = min(FOLDS, smallest)
    if folds < 2:
        return ONE_SHOT_C, {}
    own = fold_of(labels, folds, seed=seed)
    held = range(folds if len(labels) < ALL_FOLDS_BELOW else 1)
    problems = [LogisticProblem(features[own != fold], labels[own != fold], n_classes, prior=prior) for fold in held]
    last: dict[int, tuple[Tensor, Tensor]] = {}

    def score(c: float) -> float:
        right = 0
        for fold, problem in zip(held, problems, strict=True):
            weights, bias = last[fold] = problem.fit(c, start=last.get(fold))
            predicted = (features[own == fold] @ weights.T + bias).argmax(dim=1)
            right += int((predicted == labels[own == fold]).sum())
        return right / sum(int((own == fold).sum()) for fold in held)

    return sweep(score)


def linear_probe(
    encoder: Encoder,
    task: Task,
    features: Tensor,
    labels: Tensor,
    *,
    prior: str = "zero",
    c: float | None = None,
    seed: int = 0,
) -> LinearClassifier:
    """CLIP's probe: L-BFGS logistic regression on unit-norm features (n, d) with labels (n,).

    The weights are drawn towards zero, or towards the class texts at the encoder's logit scale (`prior="text"`: few
    shots then start from the zero-shot head, as in iCAR and ELEVATER [D: a prior instead of a start, since a convex
    problem forgets its start]). `c` is chosen by `choose_c` unless it is given.
    """
    if prior not in ("zero", "text"):
        raise RetroclipError(f"the prior of a probe is zero or text, not {prior!r}")
    texts = encoder.logit_scale * class_texts(encoder, task) if prior == "text" else None
    scores: dict[float, float] = {}
    if c is None:
        c, scores = choose_c(features, labels, len(task.classes), prior=texts, seed=seed)
    weights, bias = LogisticProblem(features, labels, len(task.classes), prior=texts).fit(c)
    name = "linear-probe" if prior == "zero" else "linear-probe-text"
    probe = LinearClassifier(name, encoder, task.classes, weights, scale=1.0, bias=bias)
    probe.trained_parameters = weights.numel() + bias.numel()
    probe.chosen = {"c": c, "scores": {f"{key:.3g}": value for key, value in scores.items()}}
    return probe


def sgd_head(
    views: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    epochs: int = 90,
    batch_size: int = 128,
    lr: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
) -> tuple[Tensor, Tensor, list[float]]:
    """Cross-entropy of views · weightsᵀ + bias by SGD, cosine to 0, no weight decay: (K, d), (K,) and epochs' losses.

    `views` (v, n, d) are features of augmented images, one view of each drawn an epoch; `labels` (n,); the start is
    `weights` (K, d). Source: RA-CLIP, linear probe (90 epochs, batch 128, lr 0.1, momentum 0.9).
    """
    weights = weights.clone().requires_grad_()
    bias = torch.zeros(len(weights), requires_grad=True)
    optimizer = torch.optim.SGD([weights, bias], lr=lr, momentum=momentum)
    count = -(-len(labels) // batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * count)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(labels), generator=generator).tensor_split(count):
            view = torch.randint(len(views), (len(rows),), generator=generator)
            loss = F.cross_entropy(views[view, rows].float() @ weights.T + bias, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(labels))
    return weights.detach(), bias.detach(), losses


def sgd_probe(
    encoder: Encoder,
    task: Task,
    views: Tensor,
    labels: Tensor,
    *,
    init: str = "random",
    seed: int = 0,
    epochs: int = 90,
    batch_size: int = 128,
    lr: float = 0.1,
) -> LinearClassifier:
    """RA-CLIP's probe from random weights (as `nn.Linear` draws them) or from the class texts; `views` as `sgd_head`'s.

    Features are scaled to a norm of `FEATURE_NORM`; from the texts it starts as the zero-shot head exactly.
    """
    if init not in INITS:
        raise RetroclipError(f"a probe starts from one of {', '.join(INITS)}, not {init!r}")
    if init == "text":
        start = encoder.logit_scale / FEATURE_NORM * class_texts(encoder, task)
    else:
        dim = views.shape[-1]
        generator = torch.Generator().manual_seed(seed)
        start = (2 * torch.rand(len(task.classes), dim, generator=generator) - 1) / dim**0.5
    weights, bias, losses = sgd_head(
        FEATURE_NORM * views.float(), labels, start, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
    )
    name = "linear-probe-sgd" if init == "random" else "linear-probe-sgd-text"
    probe = LinearClassifier(name, encoder, task.classes, FEATURE_NORM * weights, scale=1.0, bias=bias)
    probe.trained_parameters = weights.numel() + bias.numel()
    probe.history = as_history(losses)
    return probe
