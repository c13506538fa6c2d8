"""A linear head on the pairs that name a class, stacked with zero-shot and primed heads as held-out pairs say. [D]"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from retroclip.classifiers.classifier import Classifier
from retroclip.classifiers.linear import as_history, check_matched, train_head
from retroclip.classifiers.primed import primed_texts
from retroclip.classifiers.probe import ALL_FOLDS_BELOW, FOLDS, fold_of
from retroclip.classifiers.zero_shot import class_texts
from retroclip.encoders.features import FeatureEncoder
from retroclip.errors import ModelError
from retroclip.fusion.relevance import Density, relevance
from retroclip.memory.exact import exact_search

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

SCALE = 20.0  # of the head's logits while it is trained; stacking finds how far they are to be believed
NEIGHBOURS = 10


def stacked_linear(
    encoder: Encoder,
    task: Task,
    images: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    sharpness: float = 0.5,
    prior: float = 20.0,
    seed: int = 0,
) -> StackedClassifier:
    """b·(zero-shot + g·(primed − zero-shot)) + w·g·head over pairs that name a class.

    `images` (m, D) of `encoder`, class indices `labels` (m,). The primed head is `primed_texts` with `alpha` (1: the
    class texts as they are). The other one starts from nothing (`train_head`, class-balanced) on embeddings, or on the
    features behind them where `encoder` is a `FeatureEncoder`, less their mean. b and w are fitted to the weak labels
    of pairs that neither head has seen (stacked generalisation, Wolpert 1992): where captions mislead, w is small. g is
    the query's relevance among the pairs, as RECO's (`fusion.relevance`, β = `sharpness`; 0: always 1): pictures of
    another kind are left to the zero-shot head. Far fewer pairs than `prior` hardly move b and w from 1 and 0, that is
    from priming, and some hundreds are not held back. Classes that no pair names are neither raised nor lowered by the
    head (`level`). Nothing is chosen on evaluated images.

    Raises RetroclipError if there is no pair.
    """
    name = "stacked-linear-features" if images.shape[1] > encoder.dim else "stacked-linear"
    check_matched(labels, task, name)
    texts, members = class_texts(encoder, task), F.one_hot(labels, len(task.classes)).bool()
    embeddings, features = split(images, encoder.dim)
    centre = features.mean(dim=0)
    known = Known(F.normalize(features - centre, dim=-1), sharpness)

    def answers(seen: Tensor, asked: Tensor) -> Tensor:
        """Logits (2, n, K) for the rows `asked` of the heads that the rows `seen` make, both boolean (m,)."""
        moved = primed_texts(texts, embeddings[seen], members[seen], alpha) - texts
        trained, _ = head(known.rows[seen], labels[seen], len(texts))
        own = level(SCALE * known.rows[asked] @ trained.T, members[seen].any(dim=0))
        return torch.stack([encoder.logit_scale * embeddings[asked] @ moved.T, own])

    held, logits, share = held_out(answers, labels, len(texts), seed=seed)
    logits *= known.relevance_of_own(held)[:, None]
    logits[0] += encoder.logit_scale * embeddings[held] @ texts.T
    b, w = stack(logits, labels[held], share, prior)
    weights, losses = head(known.rows, labels, len(texts))
    moved = primed_texts(texts, embeddings, members, alpha) - texts
    named = members.any(dim=0)
    trained = Head(SCALE * weights, None if named.all() else named, w)
    classifier = StackedClassifier(name, encoder, task, b * texts, b * moved, centre, trained, known)
    classifier.trained_parameters = weights.numel() + 2
    classifier.history = as_history(losses)
    classifier.chosen = {"primed": b, "head": w, "pairs": len(labels)}
    return classifier


class StackedClassifier(Classifier):
    """s·fTᵀ + g(x)·(s·fMᵀ + head(x)): f the embedding, x the centred features, s the logit scale.

    T (K, d) are the class texts, M (K, d) how far pairs have moved them.

    Raises ModelError for embeddings without the features that it reads, such as those of patches.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        task: Task,
        texts: Tensor,
        moved: Tensor,
        centre: Tensor,
        trained: Head,
        known: Known,
    ) -> None:
        super().__init__(name, encoder, task.classes)
        self.texts, self.moved, self.centre, self.trained, self.known = texts, moved, centre, trained, known

    def __call__(self, embeddings: Tensor) -> Tensor:
        wide = isinstance(self.encoder, FeatureEncoder)
        if wide and embeddings.shape[1] == self.encoder.dim:
            raise ModelError(f"{self.name} reads features, which patches have none of: use stacked-linear, or cuts")
        own, features = split(embeddings, self.encoder.dim)
        x = F.normalize(features - self.centre, dim=-1)
        scaled = self.encoder.logit_scale * own
        learnt = scaled @ self.moved.T + self.trained(x)
        return scaled @ self.texts.T + self.known.relevance(x)[:, None] * learnt


@dataclass
class Head:
    """w·level(xWᵀ) of centred features x (n, f): `weights` W (K, f), `trust` w.

    `named` (K,) are the classes with pairs; None where all have some: softmax then sees no difference.
    """

    weights: Tensor
    named: Tensor | None
    trust: float

    def __call__(self, x: Tensor) -> Tensor:
        logits = x @ self.weights.T
        return self.trust * (logits if self.named is None else level(logits, self.named))


def level(logits: Tensor, named: Tensor) -> Tensor:
    """Logits (n, K) of which those of the classes `named` (K,) give 1 as the mean of their exponentials.

    A head's largest logit is above the 0 of a class that it has never seen, whatever the image shows. Levelled, the
    named classes together weigh as much as they would without it.
    """
    mean = logits.masked_fill(~named, -torch.inf).logsumexp(dim=1, keepdim=True) - named.sum().log()
    return torch.where(named, logits - mean, logits)


def split(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, dim) and the features behind them, each of unit norm; without any, the embeddings twice."""
    embeddings, features = F.normalize(rows[:, :dim], dim=-1), F.normalize(rows[:, dim:], dim=-1)
    return embeddings, features if features.shape[1] else embeddings


def head(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, list[float]]:
    """Weights (K, f) of a head over unit-norm rows (m, f), from zeros, and its losses.

    A class without rows keeps zeros: it is nobody's negative.
    """
    weights = torch.zeros(classes, rows.shape[1])
    present, own = labels.unique(return_inverse=True)
    weights[present], losses = train_head(weights[present], rows, own, SCALE, lr=3e-3)
    return weights, losses


def held_out(
    answers: Callable[[Tensor, Tensor], Tensor], labels: Tensor, classes: int, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers (h,), logits (2, h, K) for them of heads that haven't seen them, and what each counts (h,), in sum 1.

    `answers(seen, asked)`: logits (2, n, K) for the rows that are True in `asked` (m,), of heads made of those in
    `seen`. Every row is held out in a fold of rows; from `ALL_FOLDS_BELOW` on, those of one fold are. Where a share ρ
    of the task's classes has no pairs, folds of whole classes count ρ beside: so it shows what a head does to an image
    whose class it doesn't know. Each class counts the same.
    """
    present = torch.bincount(labels, minlength=classes) > 0
    absent = 1 - float(present.float().mean())
    parts = [(1 - absent, fold_of(labels, FOLDS, seed=seed))]
    if absent:
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
        order = order[present[order]]
        fold_of_class = torch.zeros(classes, dtype=torch.long)
        fold_of_class[order] = torch.arange(len(order)) % FOLDS
        parts.append((absent, fold_of_class[labels]))
    nothing = torch.zeros(0, dtype=torch.long)
    found, logits, shares = [nothing], [torch.zeros(2, 0, classes)], [torch.zeros(0)]
    for part, fold in parts:
        own = [nothing]
        for number in range(FOLDS if len(labels) < ALL_FOLDS_BELOW else 1):
            inside = fold == number
            if inside.any() and not inside.all():
                own.append(inside.nonzero()[:, 0])
                logits.append(answers(~inside, inside))
        found.append(torch.cat(own))
        held = labels[found[-1]]
        counts = torch.bincount(held, minlength=classes)  # one fold alone has all of a class of one pair
        shares.append(part / ((counts > 0).sum() * counts[held]))
    share = torch.cat(shares)
    return torch.cat(found), torch.cat(logits, dim=1), share / share.sum()


def stack(logits: Tensor, labels: Tensor, share: Tensor, prior: float) -> tuple[float, float]:
    """b and w ≥ 0 with the least cross-entropy of b·first + w·second; `logits` (2, h, K), each row counts its `share`.

    (prior/h)²·((b − 1)² + w²) is added, so that a few pairs don't overrule the first head. Without rows: 1 and 0.
    """
    if not len(labels):
        return 1.0, 0.0
    doubt, rows = (prior / len(labels)) ** 2, torch.arange(len(labels))
    heads = logits.double()
    heads = heads - heads[:, rows, labels][:, :, None]
    # In units in which both heads are equally loud: one step length then suits both.
    loud = heads.square().mean(dim=(1, 2)).sqrt().numpy()
    loud[loud == 0] = 1.0

    def loss(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = scaled / loud
        together = torch.einsum("hnk,h->nk", heads, torch.from_numpy(both))
        slopes = (share[:, None] * together.softmax(dim=1) * heads).sum(dim=(1, 2)).numpy()
        away = both - [1.0, 0.0]
        value = float((share * together.logsumexp(dim=1)).sum()) + doubt * float((away**2).sum())
        return value, (slopes + 2 * doubt * away) / loud

    # The problem is convex; its bounds are the solver's, for where a clamp holds a value there is no slope to leave by.
    options = {"ftol": 1e-10, "gtol": 1e-7}
    found = minimize(loss, loud * [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2, options=options)
    b, w = (found.x / loud).tolist()
    return b, w


@dataclass
class Known:
    """The centred features (m, f) that a head has seen, and how relevant they are to a query; `sharpness` is β."""

    rows: Tensor
    sharpness: float

    def __post_init__(self) -> None:
        self._ids = np.arange(len(self.rows))
        self._density: Density = Density(self._ids, lambda ids, side: self._nearest(self.rows[ids], itself=ids))

    def relevance(self, queries: Tensor) -> Tensor:
        """g (n,) in [0, 1] of centred features (n, f)."""
        return self._relevance(*self._nearest(queries)) if self.sharpness else torch.ones(len(queries))

    def relevance_of_own(self, numbers: Tensor) -> Tensor:
        """The same of rows that are among the known ones, each without itself."""
        if not self.sharpness:
            return torch.ones(len(numbers))
        return self._relevance(*self._nearest(self.rows[numbers], itself=numbers.numpy()))

    @property
    def density(self) -> tuple[Tensor, float]:
        """Of each known row the mean cosine of its own neighbours (m,), and how that varies: ū and σ of `relevance`."""
        return self._density.usual("image", self._ids[:, None])[:, 0], self._density.spread("image")

    def _nearest(self, queries: Tensor, itself: np.ndarray | None = None) -> tuple[Tensor, np.ndarray]:
        banned = None if itself is None else [np.array([row]) for row in itself]
        ids, scores = exact_search(queries, self.rows, self._ids, NEIGHBOURS, exclude=banned)
        return torch.from_numpy(scores).where(torch.from_numpy(ids >= 0), 0.0), ids

    def _relevance(self, scores: Tensor, ids: np.ndarray) -> Tensor:
        usual, spread = self._density.usual("image", ids), self._density.spread("image")
        return relevance(scores, usual, spread, self.sharpness, torch.from_numpy(ids >= 0))
