"""Towers that are trained from scratch: Formal CLIP's vision transformers and a small convolutional one.

Registered with timm, so that open_clip builds them by name; the architectures that use them are the JSON files in
`architectures/`, which open_clip knows once this module is imported.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import open_clip
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

ARCHITECTURES = Path(__file__).parent / "architectures"


class ResidualMlp(nn.Module):
    """g(x) = GELU(x·W_h + b_h)·W_o + b_o + x: (n, width) → (n, width). Formal CLIP, Eq. 2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x))) + x


class FormalVisionTransformer(VisionTransformer):
    """A ViT whose feature is g of the class token (Formal CLIP, Algorithm 1).

    The blocks are pre-LN; the head is Eq. 2 as it stands, so that no LayerNorm comes between the last block and g [D].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**(kwargs | {"final_norm": False}))
        self.g = ResidualMlp(self.embed_dim, 4 * self.embed_dim)
        self.g.apply(_initialise)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.g(self.pool(x))
        return pooled if pre_logits else self.head(pooled)


def _initialise(module: nn.Module) -> None:
    """As timm initialises the blocks' own MLPs."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _built(cls: type[nn.Module], variant: str, size: int, **kwargs: Any) -> Any:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained"):
        kwargs.pop(name, None)  # there are no published weights
    cfg = {"input_size": (3, size, size), "num_classes": 0}
    return build_model_with_cfg(cls, variant, pretrained=False, pretrained_cfg=cfg, **kwargs)


def _formal(variant: str, size: int, patch: int, **kwargs: Any) -> FormalVisionTransformer:
    shape = {"img_size": size, "patch_size": patch, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_classes": 0}
    return _built(FormalVisionTransformer, variant, size, **shape | kwargs)


@register_model
def retroclip_formal_vit_b32_224(pretrained: bool = False, **kwargs: Any) -> FormalVisionTransformer:
    """12 blocks of width 768, 49 patches of 32 px; 92.2 M parameters with g."""
    return _formal("retroclip_formal_vit_b32_224", 224, 32, **kwargs)


@register_model
def retroclip_formal_vit_b16_112(pretrained: bool = False, **kwargs: Any) -> FormalVisionTransformer:
    """12 blocks of width 768, 49 patches of 16 px; 90.4 M parameters with g."""
    return _formal("retroclip_formal_vit_b16_112", 112, 16, **kwargs)


class PatchResNet(ResNet):
    """A ResNet that starts from patches of 4 px: few positions, so that a processor is busy with products."""

    def __init__(self, *, channels: tuple[int, ...], **kwargs: Any) -> None:
        block: Any = BasicBlock
        super().__init__(block, channels=channels, **kwargs)
        net: Any = self
        net.conv1 = nn.Conv2d(3, channels[0], 4, stride=4, bias=False)
        net.bn1 = nn.BatchNorm2d(channels[0])
        net.maxpool = nn.Identity()
        first = net.layer1[0]
        first.conv1 = nn.Conv2d(channels[0], channels[0], 3, padding=1, bias=False)
        first.downsample = None
        net.layer4 = nn.Identity()  # timm's forward has four stages


@register_model
def retroclip_small_conv(pretrained: bool = False, **kwargs: Any) -> PatchResNet:
    """Three residual blocks of 64, 128 and 256 channels over 12 × 12 patches at 48 px; 1.2 M parameters."""
    shape = {"layers": (1, 1, 1), "channels": (64, 128, 256), "num_classes": 0}
    return _built(PatchResNet, "retroclip_small_conv", 48, **shape | kwargs)


open_clip.add_model_config(ARCHITECTURES)


def list_architectures(pattern: str = "*") -> list[str]:
    """Architectures of ours without weights that a shell pattern matches: what `retroclip train` recipes name."""
    names = sorted(file.stem for file in ARCHITECTURES.glob("*.json"))
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
