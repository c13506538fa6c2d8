"""Classifiers as modules of tensors alone, such as can stand behind an image tower in another runtime."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.classifiers.classifier import Classifier, LinearClassifier
from retroclip.classifiers.stacked import NEIGHBOURS, Head, StackedClassifier, split
from retroclip.errors import ModelError
from retroclip.fusion.relevance import relevance


def as_module(classifier: Classifier) -> nn.Module:
    """A module from the rows (B, D) that the classifier's encoder makes of images to its logits (B, K).

    Raises ModelError for classifiers that have none, such as cache models.
    """
    if isinstance(classifier, LinearClassifier):
        return LinearHead(classifier)
    if isinstance(classifier, StackedClassifier):
        return StackedHead(classifier)
    raise ModelError(
        f"{classifier.name} can't be exported: choose zero-shot, primed, real-prompt, real-linear, stacked-linear or"
        " stacked-linear-features"
    )


class LinearHead(nn.Module):
    """embeddings (B, d) → logits (B, K)."""

    weights: Tensor
    bias: Tensor | None

    def __init__(self, classifier: LinearClassifier) -> None:
        super().__init__()
        self.register_buffer("weights", classifier.scale * classifier.weights)
        self.register_buffer("bias", classifier.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        logits = embeddings @ self.weights.T
        return logits if self.bias is None else logits + self.bias


class StackedHead(nn.Module):
    """`StackedClassifier`'s logits (B, K) of rows (B, d + f); the pairs that it has seen are part of the module.

    Of these there are m, and making it compares them all with each other.
    """

    texts: Tensor
    moved: Tensor
    centre: Tensor
    weights: Tensor
    named: Tensor | None
    known: Tensor
    usual: Tensor

    def __init__(self, classifier: StackedClassifier) -> None:
        super().__init__()
        known = classifier.known
        self.dim, self.sharpness = classifier.encoder.dim, known.sharpness
        self.register_buffer("texts", classifier.encoder.logit_scale * classifier.texts)
        self.register_buffer("moved", classifier.encoder.logit_scale * classifier.moved)
        self.register_buffer("centre", classifier.centre)
        trained = classifier.trained
        self.register_buffer("weights", trained.weights)
        self.register_buffer("named", trained.named)
        self.trust = trained.trust
        if self.sharpness:
            usual, self.spread = known.density
            self.register_buffer("usual", usual)
            self.register_buffer("known", known.rows)

    def forward(self, rows: Tensor) -> Tensor:
        own, features = split(rows, self.dim)
        x = F.normalize(features - self.centre, dim=-1)
        learnt = own @ self.moved.T + Head(self.weights, self.named, self.trust)(x)
        return own @ self.texts.T + self._relevance(x)[:, None] * learnt

    def _relevance(self, x: Tensor) -> Tensor:
        if not self.sharpness:
            return torch.ones_like(x[:, 0])
        scores, near = (x @ self.known.T).topk(min(NEIGHBOURS, len(self.known)))
        return relevance(scores, self.usual[near], self.spread, self.sharpness)
