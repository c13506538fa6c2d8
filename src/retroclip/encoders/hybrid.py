"""The builtin model's image tower: transformer blocks over a convolutional net's feature map and class opinion.

Registered with timm, so that open_clip builds it by name (`timm_model_name: retroclip_hybrid_lite2_d6`) and what works
on a timm ViT (gates, locks, taps) works on it. The pattern: the R+ViT hybrids of Dosovitskiy et al. 2021.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, HybridEmbed
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

IMAGE_SIZE = 160
EARLY = 3  # stages: the maps of more than CPU_CHUNK images don't fit a core's cache there; later ones are small
CPU_CHUNK, CPU_LATE_CHUNK = 8, 32  # images in early and in later stages


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution registered right before it, in place; its activation stays.

    Exact in eval mode, up to rounding, and 1.4 times faster on a CPU in bf16. The convolutions gain a bias.
    """
    convolution: nn.Conv2d | None = None
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, BatchNormAct2d):
            if convolution is None or convolution.out_channels != module.num_features:
                raise ValueError(f"no convolution to fold {name} into")
            assert module.running_var is not None and module.running_mean is not None
            scale = module.weight.data / torch.sqrt(module.running_var + module.eps)
            convolution.weight.data *= scale[:, None, None, None]
            convolution.bias = nn.Parameter(module.bias.data - module.running_mean * scale)
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, module.act)
    return net


class HalvingConv(Conv2dSame):
    """TensorFlow's "same" padding of a convolution of stride 2 without a padded copy of maps that have even sides.

    There the padding is one more at the end than at the start; a kernel with a row and a column of zeros before its
    own makes it the same on both sides. Same outputs to the bit, and the stage's largest copy is saved.
    """

    @classmethod
    def of(cls, given: Conv2dSame) -> HalvingConv:
        """`given` itself, its parameters included, as such a layer."""
        options: dict[str, Any] = {"groups": given.groups, "bias": given.bias is not None, "device": "meta"}
        size, stride = given.kernel_size[0], given.stride[0]
        made = cls(given.in_channels, given.out_channels, size, stride, **options)
        made.weight, made.bias = given.weight, given.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.shape[-1] % 2 or x.shape[-2] % 2:
            return super().forward(x)
        kernel = F.pad(self.weight, (1, 0, 1, 0))
        return F.conv2d(x, kernel, self.bias, self.stride, self.kernel_size[0] // 2, groups=self.groups)


class ConvFeatures(nn.Module):
    """EfficientNet-Lite2 up to pooling, batch norms folded: images (B, 3, H, W) → (B, 1280, H/32, W/32)."""

    num_features = 1280
    needs_fp32 = True  # in bf16 the smallest cosine to fp32 is 0.979 (600 photos of Flickr8k `val` and a caption each)

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = fold_batch_norm(timm.create_model("tf_efficientnet_lite2", num_classes=0))
        for name, module in list(self.net.named_modules()):
            if isinstance(module, Conv2dSame) and module.groups > 1:
                self.net.set_submodule(name, HalvingConv.of(module))
        self.net.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        # Traced for export, batches of any size must take one way.
        if images.device.type != "cpu" or torch.compiler.is_compiling() or len(images) <= CPU_CHUNK:
            return self.net.forward_features(images)
        maps = torch.cat([self._early(part) for part in images.split(CPU_CHUNK)])
        return torch.cat([self._late(part) for part in maps.split(CPU_LATE_CHUNK)])

    def _early(self, images: Tensor) -> Tensor:
        return self.net.blocks[:EARLY](self.net.bn1(self.net.conv_stem(images)))

    def _late(self, maps: Tensor) -> Tensor:
        return self.net.bn2(self.net.conv_head(self.net.blocks[EARLY:](maps)))


class EvidenceEmbed(HybridEmbed):
    """Tokens of a convolutional net's map, each with what the net's own classifier makes of the whole image.

    token[i] = proj(map[i]) + softmax(classifier(mean map))·table. The classifier is frozen: what it learnt from a
    million photos isn't learnt again from a few thousand; `table` says what its classes mean to the blocks.
    Images (B, 3, H, W) → tokens (B, (H/32)·(W/32), embed_dim).
    """

    def __init__(self, backbone: nn.Module, *, classes: int = 1000, embed_dim: int, **kwargs: Any) -> None:
        super().__init__(backbone, embed_dim=embed_dim, **kwargs)
        self.classifier = nn.Linear(self.feature_dim, classes).requires_grad_(False)
        self.evidence = nn.Linear(classes, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed_maps(self.backbone(images))

    def embed_maps(self, maps: Tensor, drop: float = 0.0, *, local: bool = False) -> Tensor:
        """Tokens of maps (B, channels, h, w); `drop` hides that share of channels from `proj` alone.

        `local`: each token gets the opinion on its own position instead of that on the whole image (dense features).
        """
        seen = maps.flatten(2).transpose(1, 2) if local else maps.mean((2, 3))[:, None]
        evidence = self.evidence(self.classifier(seen).softmax(-1))
        return self.proj(F.dropout2d(maps, drop)).flatten(2).transpose(1, 2) + evidence


def _hybrid(variant: str, **kwargs) -> VisionTransformer:
    kwargs.pop("pretrained_cfg", None)
    kwargs.pop("pretrained_cfg_overlay", None)
    kwargs.pop("pretrained", None)

    def embed(**embed_kwargs) -> EvidenceEmbed:
        return EvidenceEmbed(ConvFeatures(), feature_size=IMAGE_SIZE // 32, feature_ratio=32, **embed_kwargs)

    defaults: dict[str, Any] = {"patch_size": 1, "num_classes": 0, "class_token": False, "global_pool": "avg"}
    size: dict[str, Any] = {"img_size": IMAGE_SIZE, "embed_layer": embed} | kwargs
    cfg = {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    return build_model_with_cfg(VisionTransformer, variant, pretrained=False, pretrained_cfg=cfg, **defaults | size)


@register_model
def retroclip_hybrid_lite2_d6(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """6 blocks of width 320 (5 heads) over 25 positions at 160 px; 14.2 M parameters, 6.1 M of them frozen."""
    return _hybrid("retroclip_hybrid_lite2_d6", embed_dim=320, depth=6, num_heads=5, **kwargs)
