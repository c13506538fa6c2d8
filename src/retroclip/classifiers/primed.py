"""Neural Priming: class texts mixed with the centroids of retrieved images; no gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.classifiers.classifier import LinearClassifier
from retroclip.classifiers.zero_shot import class_texts
from retroclip.retrieval import named_classes

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task


def centroids(images: Tensor, members: Tensor) -> Tensor:
    """Unit-norm mean of the images (m, d) of each class; `members` (m, K) is True where a pair belongs to it. (K, d)

    A class without members gets zeros.
    """
    return F.normalize(members.to(images.dtype).T @ images, dim=-1)


def stand_in_centroids(texts: Tensor, found: Tensor) -> Tensor:
    """Centroids (K, d) as guessed from the class texts (K, d) alone [D]; `found` has zero rows for classes without any.

    Texts and images live in different cones: an image is nearer to any centroid than to any text, so a class that has
    only its text would never win against one that has a centroid. The guess is a line through the classes that have
    both: mean centroid + ρ·(text − mean text), with ρ the least-squares slope. Where none has, it is the texts.
    """
    has = found.norm(dim=1) > 0
    if not has.any():
        return texts
    centred_texts = texts - texts[has].mean(dim=0)
    centred = found[has] - found[has].mean(dim=0)
    spread = centred_texts[has].square().sum()
    slope = (centred_texts[has] * centred).sum() / spread if spread > 0 else torch.tensor(1.0)
    return F.normalize(found[has].mean(dim=0) + slope * centred_texts, dim=-1)


def shrunk_centroids(texts: Tensor, found: Tensor, counts: Tensor) -> Tensor:
    """normalise((n·centroid + guess)/(n + 1)) for the n pairs of each class: the guess counts as one pair [D]. (K, d)

    texts, found: (K, d), see `stand_in_centroids`; counts (K,). One pair that names a class by chance is little to go
    by, and dozens outvote any guess.
    """
    share = (counts / (counts + 1))[:, None]
    return F.normalize(share * found + (1 - share) * stand_in_centroids(texts, found), dim=-1)


def membership(captions: list[tuple[str, ...]], task: Task) -> Tensor:
    """Boolean (m, K): which pair's captions name which class."""
    members = torch.zeros(len(captions), len(task.classes), dtype=torch.bool)
    for row, classes in enumerate(named_classes(captions, task)):
        members[row, list(classes)] = True
    return members


def primed(encoder: Encoder, task: Task, retrieved: Retrieved, alpha: float = 0.5) -> LinearClassifier:
    """W_c = α·text_c + (1−α)·centroid of the retrieved pairs whose caption names the class (Neural Priming).

    A class that few captions name leans on its text, moved to where centroids are (`shrunk_centroids`); if none is
    named at all, this is the zero-shot head.
    """
    members = membership(retrieved.captions, task)
    weights = primed_texts(class_texts(encoder, task), retrieved.image_embeddings, members, alpha)
    return LinearClassifier("primed", encoder, task.classes, weights)


def primed_texts(texts: Tensor, images: Tensor, members: Tensor, alpha: float = 0.5) -> Tensor:
    """normalise(α·texts + (1−α)·centroids), the centroids as in `shrunk_centroids`; (K, d), (m, d), (m, K) → (K, d)."""
    moved = shrunk_centroids(texts, centroids(images, members), members.sum(dim=0).float())
    return F.normalize(alpha * texts + (1 - alpha) * moved, dim=-1)
