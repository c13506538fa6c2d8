"""An embedding for every patch of an image, in the space of the texts, from a tower that was trained to give one.

MaskCLIP (Zhou et al. 2022): where a tower's last attention would mix the patches, each patch keeps its own value. A
sequence of one token attends to itself alone, so its attention *is* that value: the last layer is run on each token by
itself. The same holds for towers that end in attention pooling (ResNets, SigLIP) or in a mean (Swin, ConvNeXt): what
they give for an image, pooled over one position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from PIL import Image
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor
from torchvision.ops import roi_align

from retroclip.encoders.consulting import refuse_consulting
from retroclip.encoders.gates import ATTRIBUTE
from retroclip.encoders.precision import DTYPES
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder


@dataclass(frozen=True, eq=False)
class DenseMap:
    """`features` (B, h, w, d) in the joint space, unit norm; `keys` (B, h, w, c) of the same layer, if it has any."""

    features: Tensor
    keys: Tensor | None


def dense_map(encoder: Encoder, pixels: Tensor, *, residual: bool = True) -> DenseMap:
    """Patch embeddings of preprocessed pixels (B, 3, H, W), float32 on the CPU.

    `residual`: whether a ViT's last block adds its value to its input (the authors' code) or replaces it (the text of
    the paper, section 3.2). Raises ModelError for towers that end in some other way than those above, for an encoder
    that consults a memory or a reference set, which is asked about whole images, and for numbers that aren't finite.
    """
    refuse_consulting(encoder, "take the dense features of the model beneath it")
    tower: Any = getattr(encoder.model, "visual", None)
    pixels = pixels.to(encoder.device, DTYPES[encoder.precision])
    with torch.no_grad():
        if isinstance(tower, VisionTransformer):
            features, keys = _open_clip_vit(tower, pixels, residual)
        elif isinstance(tower, ModifiedResNet):
            features, keys = _resnet(tower, pixels)
        elif isinstance(tower, TimmModel) and isinstance(tower.trunk, TimmVisionTransformer):
            features, keys = _timm_vit(tower, pixels, residual)
        elif isinstance(tower, TimmModel):
            features, keys = _timm_map(tower, pixels), None
        else:
            raise ModelError(f"{encoder.name}: no dense features from a {type(tower).__name__} image tower")
    if not bool(torch.isfinite(features).all()):
        raise ModelError(f"{encoder.name} gave dense features that aren't finite: its weights are damaged")
    return DenseMap(F.normalize(features.float(), dim=-1).cpu(), None if keys is None else keys.float().cpu())


class LastDense:
    """`dense_map` of an encoder that keeps its last two answers: for pixels asked for again the tower doesn't run.

    Two, for what a detector sees of an image and what its boxes are pooled from may differ by the rounding of sides.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._kept: list[tuple[Tensor, DenseMap]] = []

    def __call__(self, pixels: Tensor) -> DenseMap:
        found = next((own for seen, own in self._kept if torch.equal(seen, pixels)), None)
        if found is None:
            found = dense_map(self.encoder, pixels)
            self._kept = [(pixels, found), *self._kept[:1]]
        return found


def stride(encoder: Encoder) -> int:
    """Pixels from one position of the dense map to the next."""
    tower: Any = encoder.model.visual
    if isinstance(tower, VisionTransformer):
        return int(tower.patch_size[0])
    if isinstance(tower, TimmModel) and isinstance(tower.trunk, TimmVisionTransformer):
        embed: Any = tower.trunk.patch_embed
        ratio = embed.feature_ratio if hasattr(embed, "feature_ratio") else embed.patch_size
        return int(ratio[0] if isinstance(ratio, tuple) else ratio)
    return 32


@contextmanager
def any_size(trunk: Any) -> Iterator[None]:
    """Let a timm tower of shifted windows (Swin) take images of any size meanwhile: masks are made for what it sees.

    Windows stay those of its own size, so that its weights fit as they are; at that size nothing changes.
    """
    blocks = [module for module in trunk.modules() if hasattr(module, "dynamic_mask")]
    parts = [(block, "dynamic_mask", True) for block in blocks]
    parts += [(trunk.patch_embed, "strict_img_size", False)] if blocks else []
    before = [getattr(module, name) for module, name, _ in parts]
    for module, name, value in parts:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(parts, before, strict=True):
            setattr(module, name, value)


def whole_image(encoder: Encoder, image: Image.Image, size: int | None = None, step: int | None = None) -> Tensor:
    """An image's pixels (3, H, W) without cropping: `size` on the shorter side (default: the tower's), the proportions
    kept, both sides rounded to multiples of `step` (default: whole patches)."""
    own = encoder.preprocess_cfg.get("size") or 224
    short = size or min(own) if isinstance(own, (tuple, list)) else size or own
    step = step or stride(encoder)
    scale = short / min(image.size)
    width, height = (max(step, round(side * scale / step) * step) for side in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(height, width, 3)
    mean, std = (torch.tensor(encoder.preprocess_cfg[name])[:, None, None] for name in ("mean", "std"))
    return (pixels.permute(2, 0, 1).float() / 255 - mean) / std


def pool_boxes(
    encoder: Encoder,
    image: Any,
    boxes: Sequence[Sequence[float]],
    *,
    size: int | None = None,
    dense: Callable[[Tensor], DenseMap] | None = None,
) -> Tensor:
    """Embeddings (n, d), unit norm, of boxes (x, y, w, h in pixels): RoIAlign on the dense map, then the mean.

    `dense` makes the map of pixels (1, 3, H, W): `dense_map`, or what keeps its answers (`LastDense`).
    """
    from retroclip.pairs import decode_image

    decoded = decode_image(image)
    pixels = whole_image(encoder, decoded, size)[None]
    features = (dense_map(encoder, pixels) if dense is None else dense(pixels)).features
    return pool_map(features[0], torch.as_tensor(boxes, dtype=torch.float32), decoded.size)


def pool_map(features: Tensor, boxes: Tensor, size: tuple[int, int], bins: int = 3) -> Tensor:
    """Pool a map (h, w, d) of an image of `size` (width, height) over boxes (n, 4) of x, y, w, h: (n, d), unit norm."""
    height, width = features.shape[:2]
    scale = torch.tensor([width / size[0], height / size[1]]).repeat(2)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1) * scale
    pooled = roi_align(features.permute(2, 0, 1)[None], [corners], bins, sampling_ratio=2, aligned=True)
    return F.normalize(pooled.mean((2, 3)), dim=-1)


def _open_clip_vit(tower: VisionTransformer, pixels: Tensor, residual: bool) -> tuple[Tensor, Tensor]:
    if tower.attn_pool is not None:
        raise ModelError("no dense features: the image tower pools by attention of its own kind (CoCa)")
    x, grid = _open_clip_tokens(tower, pixels)
    blocks: Any = tower.transformer.resblocks
    batch_first = tower.transformer.batch_first
    x = x if batch_first else x.transpose(0, 1)
    for block in blocks[:-1]:
        x = block(x)
    x = x if batch_first else x.transpose(0, 1)
    last = blocks[-1]
    x = _gated(last, x)
    normed = last.ln_1(x)
    width = x.shape[-1]
    bias = last.attn.in_proj_bias
    part = slice(width, 2 * width)  # queries, keys, values lie one after the other
    keys = F.linear(normed, last.attn.in_proj_weight[part], None if bias is None else bias[part])
    values = _alone(normed, lambda one: last.attention(one if batch_first else one.transpose(0, 1)), batch_first)
    x = last.ls_1(values) + (x if residual else 0)
    x = tower.ln_post(x + last.ls_2(last.mlp(last.ln_2(x))))
    x = x if tower.proj is None else x @ tower.proj
    return _grid(x, grid), _grid(keys, grid)


def _open_clip_tokens(tower: VisionTransformer, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The input of the first block, positions interpolated to the size of the pixels."""
    patches = tower.conv1(pixels)
    grid = (patches.shape[2], patches.shape[3])
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    positions = resample_abs_pos_embed(
        tower.positional_embedding[None], list(grid), old_size=list(tower.grid_size), num_prefix_tokens=1
    )
    return tower.ln_pre(x + positions.to(x.dtype)), grid


def _timm_vit(tower: TimmModel, pixels: Tensor, residual: bool) -> tuple[Tensor, Tensor]:
    trunk: Any = tower.trunk
    x, grid = _timm_tokens(trunk, pixels)
    pool = trunk.attn_pool
    for block in trunk.blocks if pool is not None else trunk.blocks[:-1]:
        x = block(x)
    if pool is not None:
        # The pool is the last attention: the blocks run as they are, and each patch is pooled by itself.
        if getattr(pool, "pos_embed", None) is not None:
            raise ModelError("no dense features: the image tower's pooling has positions of its own")
        x = trunk.norm(x)
        keys = pool.kv(x).chunk(2, dim=-1)[0]
        x = pool(x.reshape(-1, 1, x.shape[-1])).reshape(*x.shape[:2], -1)
    else:
        last = trunk.blocks[-1]
        x = _gated(last, x)
        normed = last.norm1(x)
        keys = last.attn.qkv(normed).chunk(3, dim=-1)[1]
        x = last.ls1(_alone(normed, last.attn)) + (x if residual else 0)
        x = trunk.norm(x + last.ls2(last.mlp(last.norm2(x))))
    return _grid(tower.head(trunk.head(trunk.fc_norm(x))), grid), _grid(keys, grid)


def _timm_tokens(trunk: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    embed = trunk.patch_embed
    if hasattr(embed, "embed_maps"):  # the builtin's
        maps = embed.backbone(pixels)
        grid, x = (maps.shape[2], maps.shape[3]), embed.embed_maps(maps, local=True)
    elif hasattr(embed, "proj") and not hasattr(embed, "backbone"):
        patches = embed.proj(pixels)
        grid, x = (patches.shape[2], patches.shape[3]), embed.norm(patches.flatten(2).transpose(1, 2))
    else:
        raise ModelError(f"no dense features from a {type(embed).__name__} patch embedding")
    prefix = [token.expand(len(x), -1, -1) for token in (trunk.cls_token, trunk.reg_token) if token is not None]
    own = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    positions = trunk.pos_embed
    if positions is not None:
        old = list(getattr(embed, "grid_size", None) or _square(positions.shape[1] - own))
        positions = resample_abs_pos_embed(positions, list(grid), old_size=old, num_prefix_tokens=own).to(x.dtype)
        if trunk.no_embed_class:
            x = torch.cat([*prefix, x + positions], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + positions
    else:
        x = torch.cat([*prefix, x], dim=1)
    return trunk.norm_pre(x), grid


def _resnet(tower: ModifiedResNet, pixels: Tensor) -> tuple[Tensor, Tensor]:
    x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
    x, pool = x.permute(0, 2, 3, 1), tower.attnpool
    return pool.c_proj(pool.v_proj(x)), pool.k_proj(x)


def _timm_map(tower: TimmModel, pixels: Tensor) -> Tensor:
    """Towers whose last features are a map (Swin, ConvNeXt): the head on each position, as if it were the image."""
    trunk: Any = tower.trunk
    if "pool" in dict(tower.head.named_children()):
        raise ModelError(f"no dense features: the {type(trunk).__name__} tower pools by attention over fixed positions")
    try:
        with any_size(trunk):
            maps = trunk.forward_features(pixels)
    except (AssertionError, RuntimeError) as error:
        raise ModelError(f"a {type(trunk).__name__} tower takes images of its own size only ({error})") from error
    if maps.ndim != 4:
        raise ModelError(f"no dense features from a {type(trunk).__name__} image tower: its features are no map")
    channels_last = maps.shape[-1] == trunk.num_features
    x = maps if channels_last else maps.permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    ones = x.reshape(-1, 1, 1, channels) if channels_last else x.reshape(-1, channels, 1, 1)
    return tower.head(trunk.forward_head(ones)).reshape(batch, height, width, -1)


def _alone(tokens: Tensor, attend: Any, batch_first: bool = True) -> Tensor:
    """Attention of every token (B, L, c) over itself alone: its value, through the output projection."""
    one = attend(tokens.reshape(-1, 1, tokens.shape[-1]))
    one = one if batch_first else one.transpose(0, 1)
    return one.reshape(tokens.shape)


def _gated(block: Any, tokens: Tensor) -> Tensor:
    """The tokens after the block's gate, which runs as it always does; as they are where it has none."""
    gate = getattr(block, ATTRIBUTE, None)
    return tokens if gate is None else gate(tokens)


def _grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, prefix + h·w, c) → (B, h, w, c)."""
    return tokens[:, -grid[0] * grid[1] :].reshape(len(tokens), *grid, -1)


def _square(count: int) -> tuple[int, int]:
    side = round(count**0.5)
    return side, side
