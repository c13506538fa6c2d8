"""REAL-Linear: a linear head on string-matched pairs, averaged half and half with the zero-shot head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import LinearClassifier
from retroclip.classifiers.zero_shot import class_texts
from retroclip.errors import RetroclipError
from retroclip.retrieval import named_classes

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task


def matched_pairs(
    captions: list[tuple[str, ...]], task: Task, *, per_class: int = 500, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows and class indices of the pairs that name exactly one class, at most `per_class` of each, drawn by `seed`."""
    named = named_classes(captions, task)
    rows_of: dict[int, list[int]] = {}
    for row, classes in enumerate(named):
        if len(classes) == 1:
            rows_of.setdefault(classes[0], []).append(row)
    generator = torch.Generator().manual_seed(seed)
    rows, labels = [], []
    for label, own in sorted(rows_of.items()):
        kept = torch.randperm(len(own), generator=generator)[:per_class]
        rows.append(torch.tensor(own)[kept])
        labels.append(torch.full((len(kept),), label))
    if not rows:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return torch.cat(rows), torch.cat(labels)


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


def real_linear(
    encoder: Encoder, task: Task, retrieved: Retrieved, *, per_class: int = 500, seed: int = 0
) -> LinearClassifier:
    """REAL-Linear over the retrieved pairs that name exactly one class; see `half_trained` for those few or none name.

    Raises RetroclipError if no caption names a class.
    """
    rows, labels = matched_pairs(retrieved.captions, task, per_class=per_class, seed=seed)
    if not len(rows):
        raise RetroclipError(
            f"no retrieved caption names one class of task {task.name!r}: real-linear can't be trained"
        )
    texts = class_texts(encoder, task)
    trained, losses = train_head(texts, retrieved.image_embeddings[rows], labels, encoder.logit_scale)
    weights = half_trained(texts, trained, torch.bincount(labels, minlength=len(texts)))
    classifier = LinearClassifier("real-linear", encoder, task.classes, weights)
    classifier.trained_parameters = texts.numel()
    classifier.history = [{"step": float(step), "loss": loss} for step, loss in enumerate(losses, 1)]
    return classifier


def half_trained(texts: Tensor, trained: Tensor, counts: Tensor) -> Tensor:
    """normalise(text_c + (n·w_c + ρ·text_c)/(n + 1)) for texts and trained weights w (K, d), n = `counts` (K,). (K, d)

    REAL's average of both heads. In a class of n pairs its text, as long as trained weights are on average (ρ), counts
    as one more of them [D]: a class without pairs was only ever pushed away, and one pair may be there by chance.
    """
    length = trained[counts > 0].norm(dim=1).mean()
    share = (counts / (counts + 1))[:, None]
    return F.normalize(texts + share * trained + (1 - share) * length * texts, dim=-1)
