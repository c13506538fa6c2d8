"""The fingerprint: one short string that says whether two encoders give the same embeddings.

Weights are hashed as bfloat16, whatever they are held or stored in, so that an encoder has one fingerprint in fp32 and
in bf16, before and after saving; what is never rounded (`stays_fp32`) is hashed in fp32. Two models that differ by less
than that rounding in *every* weight would be taken for one another: no training step is that small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from retroclip.encoders.precision import stays_fp32

# Texts whose token ids tell tokenizers apart: case, punctuation, a script a small vocabulary lacks, and truncation.
PROBES = ["A photo of a Dog, naïve café 日本語 №7!", "word " * 200]
# Where a part came from, not what it computes.
VOLATILE = {"timm_model_pretrained", "hf_model_pretrained", "hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"}


def fingerprint(
    model: nn.Module,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    tokenizer: Callable[[list[str]], Tensor],
) -> str:
    """32 hexadecimal digits over weights, architecture, image preprocessing and tokenization."""
    digest = hashlib.blake2b(digest_size=16)
    described = {"architecture": architecture(model_cfg), "preprocessing": _plain(preprocess_cfg)}
    digest.update(json.dumps(described, sort_keys=True).encode())
    digest.update(json.dumps(tokenizer(PROBES).tolist()).encode())
    hash_weights(digest, model)
    return digest.hexdigest()


def hash_weights(digest: Any, model: nn.Module) -> None:
    """Feed names, shapes and values of a model's floating-point state to a hash, whatever their precision."""
    exact = stays_fp32(model)
    for name, value in sorted(model.state_dict().items()):
        if not value.is_floating_point():
            continue  # counters and position ids: no embedding depends on them
        held = value.detach().cpu().to(torch.float32 if name in exact else torch.bfloat16).reshape(-1).contiguous()
        digest.update(f"{name}:{tuple(value.shape)}".encode())
        digest.update(held.view(torch.uint8).numpy())


def architecture(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The parts of an open_clip configuration that change what the model computes, without those at their defaults.

    Defaults are left out so that a field that a later open_clip adds doesn't change every fingerprint.
    """
    return {
        "embed_dim": model_cfg["embed_dim"],
        "quick_gelu": bool(model_cfg.get("quick_gelu", False)),
        "vision": _changed(CLIPVisionCfg, model_cfg["vision_cfg"]),
        "text": _changed(CLIPTextCfg, model_cfg["text_cfg"]),
    }


def _changed(cls: type, cfg: dict[str, Any]) -> dict[str, Any]:
    defaults = _plain({field.name: field.default for field in fields(cls)})
    return {k: v for k, v in _plain(cfg).items() if k not in VOLATILE and v != defaults.get(k, MISSING)}


def _plain(value: Any) -> Any:
    """Tuples as lists, and a square size (int) as [size, size], so that JSON and Python agree."""
    if isinstance(value, dict):
        squares = {k: [v, v] for k, v in value.items() if k in ("size", "image_size") and isinstance(v, int)}
        return {k: _plain(v) for k, v in (value | squares).items()}
    return list(value) if isinstance(value, (tuple, list)) else value
