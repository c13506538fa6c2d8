"""Facility location: of a class's candidates those that cover all of them, instead of the best ranked (COBRA-style)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from retroclip.retrieval.found import Candidate

if TYPE_CHECKING:
    from retroclip.memory import Memory

AT_MOST = 4096  # candidates of a class looked at, by rank: the choice is quadratic in their number


def facility_location(
    similarity: torch.Tensor, relevance: torch.Tensor, count: int, *, weight: float = 1.0
) -> torch.Tensor:
    """Greedy choice of `count` of n rows that maximises Σ_i max_{j∈S} s_ij + w·Σ_{j∈S} r_j; indices in order taken.

    similarity: (n, n), values below 0 count as 0; relevance: (n,) ≥ 0. The sum is monotone and submodular, so that the
    greedy choice is within 1 − 1/e of the best (Nemhauser et al. 1978). COBRA (Das et al. 2024) chooses retrieved
    images by functions of this family; this is the plainest of them [D].
    """
    similarity = similarity.clamp_min(0)
    covered = torch.zeros(len(similarity))
    free = torch.ones(len(similarity), dtype=torch.bool)
    taken = []
    for _ in range(min(count, len(similarity))):
        gains = (similarity - covered[:, None]).clamp_min(0).sum(dim=0) + weight * relevance
        best = int(gains.masked_fill(~free, -torch.inf).argmax())
        taken.append(best)
        free[best] = False
        covered = torch.maximum(covered, similarity[:, best])
    return torch.tensor(taken, dtype=torch.long)


def covering_per_class(memory: Memory, candidates: list[Candidate], limit: int) -> list[Candidate]:
    """At most `limit` candidates for each best class, by `facility_location` over their images; same order.

    Relevance falls from 1 to 0 with the rank, which is comparable between search modes while their cosines aren't.
    """
    of_class: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        of_class.setdefault(candidate.classes[0], []).append(candidate)
    kept: set[int] = set()
    for members in of_class.values():
        own = sorted(members, key=lambda c: (c.rank, -c.score, c.id))[:AT_MOST]
        rows = list(range(len(own)))
        if len(own) > limit:
            images = memory.embeddings([c.id for c in own], of="image")
            ranks = torch.tensor([float(c.rank) for c in own])
            rows = facility_location(images @ images.T, 1 - ranks / ranks.max().clamp_min(1), limit).tolist()
        kept |= {own[row].id for row in rows}
    return [candidate for candidate in candidates if candidate.id in kept]
