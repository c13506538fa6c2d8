"""Texts through a tower no further than its longest text reaches, where that is exact.

A causal tower's output at the end-of-text token doesn't depend on what follows it, and a Hugging Face tower masks its
padding: the columns after the batch's longest text can be left out. Towers that see their padding (SigLIP, MobileCLIP2,
CoCa's class token at the end) always get the whole context.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

POOLED_AT_END = ("argmax", "eos")


def text_lengths(model: Any, tokens: Tensor) -> Tensor:
    """How many leading columns of `tokens` (n, context) the embedding of each text depends on: (n,) int64."""
    if isinstance(model, CLIP):
        return _causal_lengths(tokens, model.attn_mask, model.text_pool_type, model.text_eos_id)
    tower: Any = getattr(model, "text", None)
    if isinstance(tower, TextTransformer) and tower.cls_emb is None:
        return _causal_lengths(tokens, tower.attn_mask, tower.pool_type, tower.eos_id)
    if _is_masked_hf(tower):
        return _last_true(tokens != tower.config.pad_token_id) + 1
    return torch.full((len(tokens),), tokens.shape[1])


def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """Raw text features (n, d) of tokens (n, length), where length may be anything from the longest text up.

    Equal to `model.encode_text` on the whole context, up to the rounding of differently shaped kernels.
    """
    length = tokens.shape[1]
    if isinstance(model, CLIP) and length < model.context_length:
        return _encode_open_clip(model, tokens, model.attn_mask, model.text_pool_type, model.text_eos_id)
    tower: Any = getattr(model, "text", None)
    if isinstance(tower, TextTransformer) and tower.cls_emb is None and length < tower.context_length:
        return _encode_open_clip(tower, tokens, tower.attn_mask, tower.pool_type, tower.eos_id)
    return model.encode_text(tokens)


def _encode_open_clip(tower: Any, tokens: Tensor, mask: Tensor, pool: str, eos: int) -> Tensor:
    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=mask[:length, :length])
    x = text_global_pool(tower.ln_final(x), tokens, pool, eos_token_id=eos)
    if tower.text_projection is None:
        return x
    return tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection


def _causal_lengths(tokens: Tensor, mask: Tensor | None, pool: str, eos: int) -> Tensor:
    if mask is None or pool not in POOLED_AT_END:
        return torch.full((len(tokens),), tokens.shape[1])
    ends = tokens if pool == "argmax" else (tokens == eos).int()
    return ends.argmax(dim=-1) + 1


def _is_masked_hf(tower: Any) -> bool:
    return getattr(getattr(tower, "config", None), "pad_token_id", None) is not None


def _last_true(valid: Tensor) -> Tensor:
    positions = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    return positions.masked_fill(~valid, 0).amax(dim=-1)
