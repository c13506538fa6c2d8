"""What a retrieved pair is evidence of: the class that its captions name, and how far its neighbours bear that out. [D]

Captions may be wrong and retrieval may find what it should not. Two things are known without any label: which class a
caption names, and which classes the captions of the nearest other images name. Where the two agree, a pair is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retroclip.retrieval import named_classes

if TYPE_CHECKING:
    from retroclip.tasks import Task


@dataclass
class Evidence:
    """`named` (m,): the one class that a pair's captions name, −1 for none or several; `trust` (m,) in [0, 1]."""

    named: Tensor
    trust: Tensor


def evidence(captions: list[tuple[str, ...]], images: Tensor, task: Task, *, cleaned: bool, k: int = 10) -> Evidence:
    """Named classes of pairs with unit-norm image embeddings (m, d), and how far to trust them.

    Without `cleaned` every named class is trusted fully. With it, a pair is trusted by the share of its k neighbours'
    votes that its class gets, relative to the class that gets most: 1 where the class wins, near 0 where others do.
    """
    named = _only_class(named_classes(captions, task))
    is_named = named >= 0
    if not cleaned:
        return Evidence(named, is_named.float())
    votes = neighbour_votes(images, named, len(task.classes), k=k)
    own = votes.gather(1, named.clamp_min(0)[:, None])[:, 0]
    # Pairs that nobody near votes on (a class of one pair) keep the benefit of the doubt.
    share = torch.where(votes.sum(dim=1) > 0, own / votes.amax(dim=1).clamp_min(1e-12), torch.ones(len(named)))
    return Evidence(named, share * is_named)


def borrow_captions(
    captions: list[tuple[str, ...]], images: Tensor, task: Task, *, share: float, k: int = 10
) -> list[tuple[str, ...]]:
    """Captions in which pairs that name no class, but lie among pairs that do, have those of one of their neighbours.

    A pair borrows where at least `share` of the k pairs nearest to it by image (m, d), unit norm, name one class, and
    it borrows from the nearest of these: a photo of a kind that the memory knows, with a caption about something else.
    """
    own = named_classes(captions, task)
    named, everyone = _only_class(own), torch.arange(len(own))
    result, k = list(captions), min(k, len(captions) - 1)
    if k < 1:
        return result
    nameless = torch.tensor([row for row, names in enumerate(own) if not names], dtype=torch.long)
    for rows in nameless.split(1024):
        _, near = _nearest(images, rows, everyone, k)
        votes = torch.zeros(len(rows), len(task.classes) + 1)
        votes.scatter_add_(1, named[near] + 1, torch.full(near.shape, 1 / k))
        most, winner = votes[:, 1:].max(dim=1)
        lender = near.gather(1, (named[near] == winner[:, None]).int().argmax(dim=1, keepdim=True))[:, 0]
        borrows = (most > 0) & (most >= share)
        for row, other in zip(rows[borrows].tolist(), lender[borrows].tolist(), strict=True):
            result[row] = captions[other]
    return result


def neighbour_votes(images: Tensor, named: Tensor, classes: int, *, k: int = 10, scale: float = 20.0) -> Tensor:
    """What the k nearest other images' captions name: images (m, d) unit norm, named (m,) → shares (m, K).

    A vote weighs exp(scale·cosine); pairs that name no class (−1) don't vote. Rows sum to 1, or to 0 without voters.
    """
    votes = torch.zeros(len(images), classes)
    voters = torch.nonzero(named >= 0).flatten()
    k = min(k, len(voters) - 1)
    if k < 1:
        return votes
    for rows in torch.arange(len(images)).split(1024):
        best, index = _nearest(images, rows, voters, k)
        votes[rows] = votes[rows].scatter_add(1, named[voters][index], torch.exp(scale * (best - 1)))
    return votes / votes.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _only_class(names: list[tuple[int, ...]]) -> Tensor:
    """The class of each pair whose captions name exactly one, else −1."""
    return torch.tensor([own[0] if len(own) == 1 else -1 for own in names])


def _nearest(images: Tensor, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k candidates nearest to each row but itself: cosines (r, k), best first, and positions in `candidates`."""
    cosines = images[rows] @ images[candidates].T
    cosines[rows[:, None] == candidates[None, :]] = -torch.inf
    best, index = cosines.topk(k, dim=1)
    return best, index
