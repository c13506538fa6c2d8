"""Attention of one query to its neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the neighbours (n, k) that `mask` allows; a row without any gets zeros instead of NaN."""
    if mask is None:
        return logits.softmax(dim=-1)
    return torch.nan_to_num(logits.masked_fill(~mask, float("-inf")).softmax(dim=-1))


def attend_once(
    attention: nn.MultiheadAttention, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None
) -> Tensor:
    """`attention(query, keys, values)` with one query each: (n, d), twice (n, L, d), seen (n, L) or None → (n, d).

    `seen` is True where the query may look, at one place or more. q_hᵀ(W_k x_j + b_k) = (W_kᵀ q_h)ᵀ x_j + const and
    Σ_j a_j (W_v x_j + b_v) = W_v Σ_j a_j x_j + b_v: keys and values need not be projected one by one. No dropout.
    """
    heads, (n, dim) = attention.num_heads, query.shape
    w_query, w_key, w_value = attention.in_proj_weight.view(3, dim, dim)
    b_query, _, b_value = attention.in_proj_bias.view(3, dim)
    asking = F.linear(query, w_query, b_query).view(n, heads, -1) * (dim // heads) ** -0.5
    asking = torch.einsum("nhe,hed->nhd", asking, w_key.view(heads, -1, dim))
    logits = asking @ keys.transpose(1, 2)
    if seen is not None:
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    mixed = logits.softmax(dim=-1) @ values
    attended = torch.einsum("nhd,hed->nhe", mixed, w_value.view(heads, -1, dim)).flatten(1) + b_value
    return F.linear(attended, attention.out_proj.weight, attention.out_proj.bias)
