"""REAL-Linear: a linear head on string-matched pairs, averaged half and half with the zero-shot head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import LinearClassifier
from retroclip.classifiers.zero_shot import class_texts
from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task


def train_head(
    weights: Tensor,
    images: Tensor,
    labels: Tensor,
    scale: float,
    *,
    steps: int = 200,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
) -> tuple[Tensor, list[float]]:
    """Cross-entropy of scale·f·Wᵀ by full-batch AdamW from `weights` (K, d); the trained weights and the loss curve.

    Every class counts the same, however many pairs (m, d) have its label (m,): a pool's frequencies aren't a task's.
    """
    counts = torch.bincount(labels, minlength=len(weights))
    balance = torch.where(counts > 0, 1 / counts.clamp_min(1), torch.zeros(()))
    weights = weights.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=lr, weight_decay=weight_decay)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(scale * images @ weights.T, labels, weight=balance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return weights.detach(), losses


def real_linear(encoder: Encoder, task: Task, images: Tensor, labels: Tensor) -> LinearClassifier:
    """REAL-Linear over pairs that name a class: image embeddings (m, d), unit norm, and class indices (m,).

    See `retrieval.matched_pairs`, and `half_trained` for classes that few or none of them name.
    Raises RetroclipError if there is no pair.
    """
    check_matched(labels, task, "real-linear")
    texts = class_texts(encoder, task)
    trained, losses = train_head(texts, images, labels, encoder.logit_scale)
    weights = half_trained(texts, trained, torch.bincount(labels, minlength=len(texts)))
    classifier = LinearClassifier("real-linear", encoder, task.classes, weights)
    classifier.trained_parameters = texts.numel()
    classifier.history = as_history(losses)
    return classifier


def check_matched(labels: Tensor, task: Task, method: str) -> None:
    """Raise RetroclipError if there is no pair to learn from."""
    if not len(labels):
        raise RetroclipError(
            f"no caption names one class of task {task.name!r}: {method} can't be trained; labels and names of class "
            "folders become captions with memory create --labels-as-captions"
        )


def as_history(losses: Sequence[float]) -> list[dict[str, float]]:
    """The losses of steps 1, 2, … as rows of a training curve."""
    return [{"step": float(step), "loss": loss} for step, loss in enumerate(losses, 1)]


def half_trained(texts: Tensor, trained: Tensor, counts: Tensor) -> Tensor:
    """normalise(text_c + (n·w_c + ρ·text_c)/(n + 1)) for texts and trained weights w (K, d), n = `counts` (K,). (K, d)

    REAL's average of both heads. In a class of n pairs its text, as long as trained weights are on average (ρ), counts
    as one more of them [D]: a class without pairs was only ever pushed away, and one pair may be there by chance.
    """
    length = trained[counts > 0].norm(dim=1).mean()
    share = (counts / (counts + 1))[:, None]
    return F.normalize(texts + share * trained + (1 - share) * length * texts, dim=-1)
