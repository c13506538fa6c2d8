"""GELU or QuickGELU: weights trained with one give quietly wrong embeddings with the other.

The weights don't tell. What can be known is refused: the tag's own record, the hub repository or the file's hash that
open_clip's list ties to a tag, and what we wrote into retroclip.json.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from retroclip.errors import ModelError


def activation(quick_gelu: bool) -> str:
    """How an activation is called in messages."""
    return "QuickGELU" if quick_gelu else "GELU"


def check_tag(name: str, tag: str, model_cfg: dict[str, Any]) -> None:
    """Refuse `name/tag` where open_clip records that the tag was trained with the other activation."""
    trained = bool(get_pretrained_cfg(name, tag).get("quick_gelu", False))
    _refuse_mismatch(f"{name}/{tag}", trained, model_cfg, _other_name(name, trained, f"/{tag}"))


def check_hub(reference: str, model_cfg: dict[str, Any]) -> None:
    """Refuse a hub repository whose configuration contradicts what open_clip records about it."""
    trained = _hub_activations().get(reference.removeprefix("hf-hub:").strip("/"))
    if trained is not None:
        _refuse_mismatch(reference, trained, model_cfg, f"its open_clip_config.json needs quick_gelu: {trained}")


def check_file(file: Path, name: str, model_cfg: dict[str, Any]) -> bool:
    """Refuse a known checkpoint with the wrong activation; returns whether the file was known."""
    trained = known_activation(file)
    if trained is not None:
        _refuse_mismatch(str(file), trained, model_cfg, _other_name(name, trained, f"@{file}"))
    return trained is not None


def check_directory(record: Path, model_cfg: dict[str, Any]) -> None:
    """Refuse a directory whose retroclip.json and open_clip_config.json name different activations."""
    if not record.is_file():
        return
    try:
        trained = json.loads(record.read_text(encoding="utf-8")).get("quick_gelu")
    except ValueError as error:
        raise ModelError(f"{record} is not JSON ({error})") from error
    if trained is not None:
        _refuse_mismatch(str(record.parent), trained, model_cfg, f"set quick_gelu: {trained} in open_clip_config.json")


def known_activation(file: Path) -> bool | None:
    """True for QuickGELU, False for GELU, None for a file that isn't one of the published checkpoints (by SHA-256).

    The published hashes are all of pickles, so safetensors aren't read for this.
    """
    if file.suffix == ".safetensors":
        return None
    known = _hash_activations()
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
    full = digest.hexdigest()
    return known.get(full, known.get(full[:8]))


def hinted_activation(file: Path) -> bool | None:
    """What the name of a file hints at: REACT's `clip-…` files come from OpenAI's models, its `openclip-…` don't.

    True for QuickGELU, False for GELU, None for any other name. A name proves nothing, so this is only warned of.
    """
    named = re.fullmatch(r"(open)?clip-.*(gated-image|locked-text).*", file.stem)
    return None if named is None else named[1] is None


def _refuse_mismatch(what: str, trained: bool, model_cfg: dict[str, Any], remedy: str) -> None:
    configured = bool(model_cfg.get("quick_gelu", False))
    if trained != configured:
        raise ModelError(
            f"{what} was trained with {activation(trained)} but its architecture has {activation(configured)}: {remedy}"
        )


def _other_name(name: str, trained_quick: bool, rest: str) -> str:
    other = f"{name}-quickgelu" if trained_quick else name.removesuffix("-quickgelu")
    return f"use {other}{rest}" if other in open_clip.list_models() else f"{name} has no variant with it"


@cache
def _hub_activations() -> dict[str, bool]:
    return {
        hub: bool(cfg.get("quick_gelu", False))
        for cfg in _all_pretrained()
        if (hub := str(cfg.get("hf_hub", "")).strip("/")) and hub.count("/") == 1
    }


@cache
def _hash_activations() -> dict[str, bool]:
    """SHA-256 (OpenAI's addresses hold it whole, open_clip's releases its first 8 digits) → trained with QuickGELU."""
    found = {}
    for cfg in _all_pretrained():
        for digest in re.findall(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pt$", str(cfg.get("url", ""))):
            found["".join(digest)] = bool(cfg.get("quick_gelu", False))
    return found


def _all_pretrained() -> list[dict[str, Any]]:
    return [get_pretrained_cfg(name, tag) for name, tag in open_clip.list_pretrained()]
