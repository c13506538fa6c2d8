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
    """Cross-entropy of scale·f·Wᵀ by full-batch AdamW from `weights` (K, d); the trained weights and the loss curve."""
    weights = weights.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=lr, weight_decay=weight_decay)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(scale * images @ weights.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return weights.detach(), losses


def real_linear(
    encoder: Encoder, task: Task, retrieved: Retrieved, *, per_class: int = 500, seed: int = 0
) -> LinearClassifier:
    """REAL-Linear over the retrieved pairs that name exactly one class; classes none names keep their text.

    Raises RetroclipError if no caption names a class.
    """
    rows, labels = matched_pairs(retrieved.captions, task, per_class=per_class, seed=seed)
    if not len(rows):
        raise RetroclipError(
            f"no retrieved caption names one class of task {task.name!r}: real-linear can't be trained"
        )
    texts = class_texts(encoder, task)
    trained, losses = train_head(texts, retrieved.image_embeddings[rows], labels, encoder.logit_scale)
    # A class without pairs was only ever pushed away: its half of the average is its text too.
    present = torch.zeros(len(texts), dtype=torch.bool)
    present[labels] = True
    trained = torch.where(present[:, None], trained, texts)
    classifier = LinearClassifier("real-linear", encoder, task.classes, 0.5 * texts + 0.5 * trained)
    classifier.trained_parameters = texts.numel()
    classifier.history = [{"step": float(step), "loss": loss} for step, loss in enumerate(losses, 1)]
    return classifier
