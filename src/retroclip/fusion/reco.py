"""RECO: a query attends to what the memory holds about its nearest neighbours (`reco-notes.txt`, section 3.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.fusion.attention import attend, attend_once
from retroclip.fusion.base import Fusion
from retroclip.fusion.mean import masked_mean

if TYPE_CHECKING:
    from retroclip.memory.opened import Modality

SIDES: tuple[Modality, ...] = ("image", "text")


class PlainLayer(nn.Module):
    """One pre-LN transformer layer over [q; r_1 … r_k] of which only token 0, the query, is computed.

    Token 0's output needs only its own query, output projection and FFN; and with one query a token the key and value
    projections can be done on that side of the attention (`attend_once`): the same function, with 12 d² instead of
    132 d² multiplications at k = 10. Tensor names are those of `nn.TransformerEncoderLayer`, plus type embedding and
    gate. The gate starts at 0, where the layer is the identity; wide open it gives the paper's layer [D].
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.type_embedding = nn.Parameter(0.02 * torch.randn(2, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, query: Tensor, neighbours: Tensor, mask: Tensor | None, scores: Tensor | None) -> Tensor:
        """(n, d), (n, k, d), mask (n, k) True where there is a neighbour → (n, d), unit norm. `scores` are not used."""
        asking = query + self.type_embedding[0]
        tokens = torch.cat([asking[:, None], neighbours + self.type_embedding[1]], dim=1)
        seen = None if mask is None else F.pad(mask, (1, 0), value=True)
        normed = self.norm1(tokens)
        first = asking + attend_once(self.self_attn, normed[:, 0], normed, normed, seen)
        first = first + self.linear2(F.gelu(self.linear1(self.norm2(first))))
        return F.normalize(query + torch.tanh(self.gate) * (first - query), dim=-1)


class IdentityLayer(nn.Module):
    """Attention that starts as a similarity-weighted mean of the neighbours, values passing through unchanged [D].

    out = normalise(m + FFN(LN m)),  m = (1−λ)·q + λ·Σ_j a_j·W_v r_j,
    a = softmax_j(β·(W_q(q + c·r̄))ᵀ(W_k r_j) + γ·score_j)

    with r̄ the neighbours' mean and score_j the search's cosine between the query and neighbour j's own key. W_* start
    at the identity, the FFN's output at 0, λ at `mixing`. The r̄ in the query lets neighbours that agree outvote others.
    """

    def __init__(
        self, dim: int, mixing: float = 0.7, similarity: float = 5.0, consensus: float = 1.0, search: float = 10.0
    ) -> None:
        super().__init__()
        self.w_query, self.w_key, self.w_value = (nn.Parameter(torch.eye(dim)) for _ in range(3))
        self.mixing_logit = nn.Parameter(torch.tensor(math.log(mixing / (1 - mixing))))
        self.similarity = nn.Parameter(torch.tensor(similarity))
        self.consensus = nn.Parameter(torch.tensor(consensus))
        self.search = nn.Parameter(torch.tensor(search))
        self.norm = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, query: Tensor, neighbours: Tensor, mask: Tensor | None, scores: Tensor | None) -> Tensor:
        """(n, d), (n, k, d), mask and scores (n, k) or None → (n, d), unit norm; no neighbours: the query at first."""
        if neighbours.shape[1] == 0:
            return query
        asking = (query + self.consensus * masked_mean(neighbours, mask)) @ self.w_query.T
        logits = self.similarity * torch.einsum("nd,nkd->nk", asking @ self.w_key, neighbours)
        if scores is not None:
            logits = logits + self.search * scores
        attended = torch.einsum("nk,nkd->nd", attend(logits, mask), neighbours) @ self.w_value.T
        mixing = torch.sigmoid(self.mixing_logit)
        mixed = (1 - mixing) * query + mixing * attended
        return F.normalize(mixed + self.linear2(F.gelu(self.linear1(self.norm(mixed)))), dim=-1)


class RecoFusion(Fusion):
    """φ_image and φ_text of RECO: an image refined by texts, a text refined by images.

    `init="identity"` (default; below about a million training pairs) starts near the mean of the neighbours and takes
    the keyword options of `IdentityLayer`; `init="plain"` is the paper's freely initialised layer behind a closed gate.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        init: str = "identity",
        *,
        sides: tuple[Modality, ...] = SIDES,
        image_options: dict[str, float] | None = None,
        text_options: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        if init not in ("identity", "plain"):
            raise ValueError(f"init is {init!r}: choose 'identity' or 'plain'")
        self.options = {"dim": dim, "heads": heads, "init": init, "sides": list(sides)}
        self.options |= {"image_options": image_options, "text_options": text_options}
        self.sides = tuple(sides)
        chosen = {"image": image_options or {}, "text": text_options or {}}
        self.layers = nn.ModuleDict(
            {
                side: PlainLayer(dim, heads) if init == "plain" else IdentityLayer(dim, **chosen[side])
                for side in self.sides
            }
        )

    def forward(
        self,
        query: Tensor,
        neighbours: Tensor,
        *,
        side: Modality,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """Refine (n, d) by its neighbours' other modality (n, k, d); `side` is the query's modality. Unit norm out."""
        return self.layers[side](query, neighbours, mask, scores)
