"""Probabilities that can be believed, and when to answer: fitted on labelled images that are not the evaluated ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import Classifier

LOWEST, HIGHEST = 1e-3, 1e3
"""The range of temperatures; both ends say that confidence tells nothing of being right."""


def fit_temperature(logits: Tensor, labels: Tensor, *, steps: int = 60) -> float:
    """T > 0 that minimises the cross-entropy of logits / T, logits (n, K), labels (n,). Guo et al. 2017, section 4.2.

    The loss is convex in 1/T, so that halving the interval of log T in which its slope changes sign finds the minimum.
    """
    logits, labels = logits.double(), labels.long()
    own = logits[torch.arange(len(labels)), labels]

    def slope(log_t: float) -> float:
        shares = (logits / torch.tensor(log_t).exp()).softmax(dim=1)
        return float(((shares * logits).sum(dim=1) - own).mean())  # d loss / d (1/T)

    low, high = float(torch.tensor(LOWEST).log()), float(torch.tensor(HIGHEST).log())
    for _ in range(steps):
        middle = (low + high) / 2
        # A positive slope in 1/T: the logits are too sharp, T must grow.
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(torch.tensor((low + high) / 2).exp())


def threshold_for(confidence: Tensor, correct: Tensor, max_error: float) -> float:
    """The lowest confidence at or above which at most `max_error` of the answers are wrong; above 1 where none is.

    `confidence` (n,) in [0, 1], `correct` (n,) booleans, of labelled images. Answers of equal confidence stand or fall
    together.
    """
    order = confidence.argsort(descending=True, stable=True)
    ranked, wrong = confidence[order], (~correct[order].bool()).cumsum(0)
    shares = wrong / torch.arange(1, len(ranked) + 1)
    last_of_tie = torch.ones(len(ranked), dtype=torch.bool)
    last_of_tie[:-1] = ranked[1:] != ranked[:-1]
    fine = torch.nonzero((shares <= max_error) & last_of_tie).flatten()
    return float(ranked[fine[-1]]) if len(fine) else float("inf")


class CalibratedClassifier(Classifier):
    """Another classifier's logits divided by a temperature: the same answers, other probabilities."""

    def __init__(self, classifier: Classifier, temperature: float) -> None:
        super().__init__(classifier.name, classifier.encoder, classifier.classes)
        self.classifier, self.temperature = classifier, temperature
        self.history, self.trained_parameters = classifier.history, classifier.trained_parameters

    def __call__(self, embeddings: Tensor) -> Tensor:
        return self.classifier(embeddings) / self.temperature


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return float(F.cross_entropy(logits.double(), labels.long()))
