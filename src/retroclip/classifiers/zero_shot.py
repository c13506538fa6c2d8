"""The zero-shot head: class names through templates and the text tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import LinearClassifier

PROMPTS = 2**17  # embedded at a time: ImageNet's with 80 templates at once, 268 MB where d is 512

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task


def class_texts(encoder: Encoder, task: Task) -> Tensor:
    """One embedding a class (K, d): every prompt embedded, normalised, averaged, normalised again (CLIP).

    About `PROMPTS` are embedded at a time, so that what is held grows with the classes, not with their prompts.
    """
    means = []
    step = max(1, PROMPTS // len(task.templates))
    for start in range(0, len(task.classes), step):
        prompts = [task.prompts(name) for name in task.classes[start : start + step]]
        rows = encoder.encode_texts([prompt for own in prompts for prompt in own])
        means += [part.mean(dim=0) for part in rows.split([len(own) for own in prompts])]
    return F.normalize(torch.stack(means), dim=-1)


def zero_shot(encoder: Encoder, task: Task) -> LinearClassifier:
    """The classifier that class names alone give.

    >>> zero_shot(encoder, task).classes
    ['cat', 'dog']
    """
    return LinearClassifier("zero-shot", encoder, task.classes, class_texts(encoder, task))
