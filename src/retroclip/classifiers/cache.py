"""Cache models over retrieved images: Tip-Adapter and TIP-X, with coefficients fixed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retroclip.classifiers.classifier import Classifier
from retroclip.classifiers.primed import membership
from retroclip.classifiers.zero_shot import class_texts
from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task


def cache_logits(queries: Tensor, keys: Tensor, values: Tensor, sharpness: float) -> Tensor:
    """exp(−β(1−fFᵀ))·L for f (n, d), F (m, d), L (m, K), β = `sharpness`. Tip-Adapter, Eq. 5."""
    return torch.exp(-sharpness * (1 - queries @ keys.T)) @ values


def signature_logits(queries: Tensor, keys: Tensor, values: Tensor, texts: Tensor, scale: float) -> Tensor:
    """TIP-X: affinity −KL(query's class distribution ‖ key's), brought to [0, 1] over the cache, times L (m, K)."""
    log_p = (scale * queries @ texts.T).log_softmax(dim=-1)
    log_q = (scale * keys @ texts.T).log_softmax(dim=-1)
    p = log_p.exp()
    divergence = (p * log_p).sum(dim=-1, keepdim=True) - p @ log_q.T
    low, high = divergence.amin(dim=1, keepdim=True), divergence.amax(dim=1, keepdim=True)
    return ((high - divergence) / (high - low).clamp_min(1e-12)) @ values


class CacheClassifier(Classifier):
    """s·fWᵀ + α·exp(−β(1−fFᵀ))L + γ·TIP-X, with s the encoder's logit scale; γ = 0 leaves TIP-X out."""

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        task: Task,
        *,
        texts: Tensor,
        keys: Tensor,
        values: Tensor,
        alpha: float,
        beta: float,
        gamma: float,
        signature_scale: float,
    ) -> None:
        super().__init__(name, encoder, task.classes)
        self.texts, self.keys, self.values = texts, keys, values
        self.alpha, self.beta, self.gamma, self.signature_scale = alpha, beta, gamma, signature_scale

    def __call__(self, embeddings: Tensor) -> Tensor:
        scale = self.encoder.logit_scale
        logits = scale * embeddings @ self.texts.T
        logits = logits + self.alpha * cache_logits(embeddings, self.keys, self.values, self.beta)
        if self.gamma:
            logits = logits + self.gamma * signature_logits(
                embeddings, self.keys, self.values, self.texts, self.signature_scale
            )
        return logits


def balanced_values(members: Tensor, shots: float = 16.0) -> Tensor:
    """L (m, K): one-hot rows, each class's summing to `shots`, so that a class with many pairs isn't favoured [D]."""
    values = members.float()
    return shots * values / values.sum(dim=0, keepdim=True).clamp_min(1)


def tip_adapter(
    encoder: Encoder, task: Task, retrieved: Retrieved, *, alpha: float = 1.0, beta: float = 5.5
) -> CacheClassifier:
    """Tip-Adapter over the pairs whose caption names a class; α = 1, β = 5.5 are the paper's fixed values."""
    return _cache("tip-adapter", encoder, task, retrieved, alpha=alpha, beta=beta, gamma=0.0)


def tip_x(
    encoder: Encoder,
    task: Task,
    retrieved: Retrieved,
    *,
    alpha: float = 1.0,
    beta: float = 5.5,
    gamma: float = 0.1,
    signature_scale: float | None = None,
) -> CacheClassifier:
    """Tip-Adapter with TIP-X's affinity of class distributions beside the one of features.

    `signature_scale` is 1/τ of these distributions: the encoder's logit scale [D]; the authors' code has 2.
    """
    scale = encoder.logit_scale if signature_scale is None else signature_scale
    return _cache("tip-x", encoder, task, retrieved, alpha=alpha, beta=beta, gamma=gamma, signature_scale=scale)


def _cache(
    name: str,
    encoder: Encoder,
    task: Task,
    retrieved: Retrieved,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    signature_scale: float = 0.0,
) -> CacheClassifier:
    members = membership(retrieved.captions, task)
    named = members.any(dim=1)
    if not named.any():
        raise RetroclipError(f"no retrieved caption names a class of task {task.name!r}: {name} has nothing to cache")
    return CacheClassifier(
        name,
        encoder,
        task,
        texts=class_texts(encoder, task),
        keys=retrieved.image_embeddings[named],
        values=balanced_values(members[named]),
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        signature_scale=signature_scale,
    )
