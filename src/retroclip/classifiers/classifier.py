"""Classifier: logits over a task's classes from image embeddings; the linear form that most methods take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from retroclip.encoders import Encoder


class Classifier:
    """Classes scored from the unit-norm image embeddings of `encoder`; subclasses define `__call__`.

    `history` holds the training curve's rows and `trained_parameters` counts, where something was trained; `chosen`
    what was chosen on the training images.

    >>> classifier = zero_shot(encoder, task)
    >>> tuple(classifier.predict_images(["photos/00.jpg"]).shape), classifier.classes
    ((1, 2), ['cat', 'dog'])
    """

    history: Sequence[dict[str, float]] = ()
    trained_parameters: int = 0
    chosen: Mapping[str, Any] = {}

    def __init__(self, name: str, encoder: Encoder, classes: Sequence[str]) -> None:
        self.name, self.encoder, self.classes = name, encoder, list(classes)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Image embeddings (n, d) → logits (n, K)."""
        raise NotImplementedError

    def predict_images(self, images: Sequence[Any] | Tensor, **options: Any) -> Tensor:
        """Encoded or PIL images (or pixels) → class probabilities (n, K); options are `encode_images`'s."""
        return self(self.encoder.encode_images(images, **options)).softmax(dim=-1)


class LinearClassifier(Classifier):
    """logits = scale · embeddings · weightsᵀ + bias, with weights (K, d), bias (K,).

    `scale` defaults to the encoder's logit scale, `bias` to none.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        classes: Sequence[str],
        weights: Tensor,
        scale: float | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(name, encoder, classes)
        self.weights, self.bias = weights, bias
        self.scale = encoder.logit_scale if scale is None else scale

    def __call__(self, embeddings: Tensor) -> Tensor:
        logits = self.scale * embeddings @ self.weights.T
        return logits if self.bias is None else logits + self.bias
