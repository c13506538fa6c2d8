"""The transformer blocks inside a tower, whoever wrote it, and an image tower run in two parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, Transformer, VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from retroclip.errors import ModelError


@dataclass(frozen=True)
class BlockShape:
    """What a block inserted beside another one needs to know of it; `eps` is its layer norms' epsilon."""

    width: int
    heads: int
    activation: nn.Module
    eps: float


def image_blocks(model: Any) -> nn.ModuleList | nn.Sequential:
    """The image tower's transformer blocks, in order; raises ModelError where the tower isn't a plain stack of them."""
    tower = model.visual
    blocks = None
    if isinstance(tower, VisionTransformer):
        blocks = tower.transformer.resblocks
    elif isinstance(tower, TimmModel):
        blocks = getattr(tower.trunk, "blocks", None)
    return _checked(blocks, "image", tower.trunk if isinstance(tower, TimmModel) else tower)


def text_blocks(model: Any) -> nn.ModuleList | nn.Sequential:
    """The text tower's transformer blocks (open_clip's, or the encoder layers of a BERT-like Hugging Face tower)."""
    if isinstance(model, CLIP):
        return _checked(model.transformer.resblocks, "text", model.transformer)
    tower = model.text
    if isinstance(tower, TextTransformer):
        return _checked(tower.transformer.resblocks, "text", tower)
    return _checked(getattr(getattr(tower.transformer, "encoder", None), "layer", None), "text", tower.transformer)


def block_shape(block: Any) -> BlockShape:
    """Width, heads, activation and epsilon of one block of open_clip, timm or a BERT-like Hugging Face model."""
    if hasattr(block, "ln_1"):  # open_clip
        return BlockShape(block.ln_1.normalized_shape[0], block.attn.num_heads, block.mlp.gelu, block.ln_1.eps)
    if hasattr(block, "norm1"):  # timm
        norm = block.norm1
        return BlockShape(norm.normalized_shape[0], block.attn.num_heads, block.mlp.act, norm.eps)
    attention = block.attention.self  # Hugging Face BERT, RoBERTa
    norm = block.output.LayerNorm
    return BlockShape(
        norm.normalized_shape[0], attention.num_attention_heads, block.intermediate.intermediate_act_fn, norm.eps
    )


def image_prefix(model: Any, images: Tensor, start: int) -> Tensor:
    """Tokens (B, L, width) at the input of image block `start`, of preprocessed images (B, 3, H, W).

    With `image_suffix` it splits `model.encode_image` so that frozen lower blocks are computed once and cached. Raises
    ModelError for towers that can't be cut there (convolutional, windowed, or with rotary positions).
    """
    tower, blocks = model.visual, image_blocks(model)
    _check_start(start, len(blocks))
    if isinstance(tower, VisionTransformer):
        return _run(tower.transformer, tower._embeds(images), blocks[:start])
    trunk = _plain_trunk(tower)
    tokens = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))
    return image_middle(model, tokens, 0, start)


def image_middle(model: Any, tokens: Tensor, start: int, stop: int) -> Tensor:
    """Tokens at the input of image block `stop`, from those at the input of block `start`, which is not later."""
    tower, blocks = model.visual, image_blocks(model)
    if isinstance(tower, VisionTransformer):
        return _run(tower.transformer, tokens, blocks[start:stop])
    for block in blocks[start:stop]:
        tokens = block(tokens)
    return tokens


def image_suffix(model: Any, tokens: Tensor, start: int) -> Tensor:
    """Raw image features (B, d), as `encode_image` gives them, from the tokens at the input of block `start`."""
    tower, blocks = model.visual, image_blocks(model)
    _check_start(start, len(blocks))
    if isinstance(tower, VisionTransformer):
        pooled, _ = tower._pool(_run(tower.transformer, tokens, blocks[start:]))
        return pooled if tower.proj is None else pooled @ tower.proj
    trunk = _plain_trunk(tower)
    for block in blocks[start:]:
        tokens = block(tokens)
    return tower.head(trunk.forward_head(trunk.norm(tokens)))


def _run(transformer: Transformer, tokens: Tensor, blocks: Iterable[nn.Module]) -> Tensor:
    x = tokens if transformer.batch_first else tokens.transpose(0, 1)
    for block in blocks:
        x = block(x, attn_mask=None)
    return x if transformer.batch_first else x.transpose(0, 1)


def _plain_trunk(tower: Any) -> TimmVisionTransformer:
    trunk = getattr(tower, "trunk", None)
    if not isinstance(trunk, TimmVisionTransformer):
        raise ModelError(f"a {type(trunk).__name__} image tower can't be cut between blocks: train without caching")
    return trunk


def _check_start(start: int, count: int) -> None:
    if not 0 <= start <= count:
        raise ModelError(f"the image tower has blocks 0 to {count - 1}, and none at {start}")


def _checked(blocks: Any, kind: str, tower: nn.Module) -> nn.ModuleList | nn.Sequential:
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        raise ModelError(f"the {kind} tower ({type(tower).__name__}) has no plain transformer blocks: gates need a ViT")
    return blocks
