"""Self-attention for training on a CPU: the function of nn.MultiheadAttention without the copies it makes there.

With `batch_first` PyTorch's module transposes its input, and a linear layer over what is then not contiguous becomes a
batched product with one copy of the weight for each token position: nearly half of a training step of ViT-B/32 in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class FlatAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention, computed by `self_attention` where gradients are on and that covers the call."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        mask = options.pop("attn_mask", None) if set(options) <= {"need_weights", "attn_mask"} else None
        plain = not args and set(options) <= {"need_weights"} and not options.get("need_weights", True)
        alone = query is key and key is value and query.ndim == 3 and self.batch_first
        if torch.is_grad_enabled() and plain and alone and self.in_proj_bias is not None and not self.dropout:
            return self_attention(self, query, mask), None
        if mask is not None:
            options["attn_mask"] = mask
        return super().forward(query, key, value, *args, **options)


def self_attention(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens (B, L, d) attending to each other → (B, L, d); mask (L, L) or (B·heads, L, L), as the module takes it."""
    batch, length, dim = tokens.shape
    packed = linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    parts = packed.view(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    if mask is not None:
        mask = ~mask if mask.dtype == torch.bool else mask
        mask = mask.view(batch, attention.num_heads, length, length) if mask.ndim == 3 else mask
    if tokens.device.type == "cpu":
        # The backward pass of bf16 takes more than twice the time of fp32's there.
        with torch.autocast("cpu", enabled=False):
            query, key, value = parts.float().unbind(0)
            allowed = mask if mask is None or mask.dtype == torch.bool else mask.float()
            attended = scaled_dot_product_attention(query, key, value, attn_mask=allowed).to(packed.dtype)
    else:
        query, key, value = parts.unbind(0)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    joined = attended.transpose(1, 2).reshape(batch, length, dim)
    return linear(joined, attention.out_proj.weight, attention.out_proj.bias)


@contextmanager
def flat_attention(model: nn.Module) -> Iterator[None]:
    """Every nn.MultiheadAttention of a model computed by `FlatAttention` while the block runs, in place."""
    changed = [module for module in model.modules() if type(module) is nn.MultiheadAttention]
    for module in changed:
        module.__class__ = FlatAttention
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.MultiheadAttention
