"""RA-CLIP's retrieval-augmented module (`ra-clip-supplementary.txt`, section D; Eq. 2 and 3 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.errors import ModelError
from retroclip.fusion.attention import attend_once
from retroclip.fusion.base import Fusion

if TYPE_CHECKING:
    from retroclip.memory.opened import Modality


class RamBlock(nn.Module):
    """a ← a + MHA(LN(v + a), LN(key), LN(value)); a ← a + FFN(LN a): our reading of the lost Figure 2 [D].

    The output projections start at zero, so that a fresh module leaves the embedding as it is [D].
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.norm_query, self.norm_key, self.norm_value = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        for last in (self.attention.out_proj, self.linear2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, v: Tensor, key: Tensor, value: Tensor, a: Tensor, mask: Tensor | None = None) -> Tensor:
        """v, a (n, d); key, value (n, k, d); mask (n, k), True where there is a neighbour → the next a (n, d)."""
        key, value = self.norm_key(key), self.norm_value(value)
        a = a + attend_once(self.attention, self.norm_query(v + a), key, value, mask)
        return a + self.linear2(F.gelu(self.linear1(self.norm(a))))


class RetrievalAugmentation(Fusion):
    """v + a^T + a^I, unit norm: texts read through image keys and images through text keys, `blocks` times each.

    Images only; the text tower isn't augmented [P]. Neighbours must have both modalities. The input, of unit norm, is
    brought to `length` before anything is added: at 1 what is added soon outweighs it (docs/decisions.md) [D].
    Raises ModelError for heads that don't divide the dimension.
    """

    sides = ("image",)

    def __init__(self, dim: int, heads: int = 8, blocks: int = 1, length: float = 1.0) -> None:
        super().__init__()
        if dim % heads:
            raise ModelError(f"{heads} attention heads can't share {dim} dimensions: take a number that divides them")
        self.options = {"dim": dim, "heads": heads, "blocks": blocks, "length": length}
        self.length = length
        self.texts = nn.ModuleList(RamBlock(dim, heads) for _ in range(blocks))
        self.images = nn.ModuleList(RamBlock(dim, heads) for _ in range(blocks))

    def forward(
        self,
        query: Tensor,
        neighbours: Tensor,
        *,
        side: Modality = "image",
        keys: Tensor | None = None,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """query (n, d), neighbours e^T (n, k, d), keys e^I (n, k, d), mask (n, k) → (n, d); `scores` are not used."""
        assert keys is not None, "RA-CLIP reads both modalities of a neighbour"
        if mask is None:
            return self._augmented(query, neighbours, keys, None)
        found = mask.any(dim=1)
        # Attention over nothing is NaN: queries without a neighbour look at whatever lies there and stay as they are.
        # So every parameter has a gradient, if a zero one; DDP waits for all of them on every process.
        refined = self._augmented(query, neighbours, keys, mask | ~found[:, None])
        return torch.where(found[:, None], refined, query)

    def _augmented(self, query: Tensor, neighbours: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        query = self.length * query
        a_text = a_image = torch.zeros_like(query)
        for text_block, image_block in zip(self.texts, self.images, strict=True):
            a_text = text_block(query, keys, neighbours, a_text, mask)
            a_image = image_block(query, neighbours, keys, a_image, mask)
        return F.normalize(query + a_text + a_image, dim=-1)
