"""The maps inside a convolutional image tower, at strides 8, 16 and 32: what a detector or segmenter is built on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from retroclip.encoders.hybrid import ConvFeatures
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

STRIDES = (8, 16, 32)


class ConvPyramid(nn.Module):
    """Images (B, 3, H, W), preprocessed → {"8": (B, c, H/8, W/8), "16": …, "32": …}, frozen and without gradients.

    For the builtin's convolutional part and open_clip's ResNets. Raises ModelError for other towers.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        tower: Any = encoder.model.visual
        self.stages: Any
        if isinstance(tower, ModifiedResNet):
            self.stages = [tower.stem, tower.layer1, tower.layer2, tower.layer3, tower.layer4]
        elif isinstance(tower, TimmModel) and isinstance(_backbone(tower), ConvFeatures):
            net = _backbone(tower).net
            self.stages = [net.conv_stem, net.bn1, *net.blocks]
        else:
            raise ModelError(f"{encoder.name}: no feature pyramid, its image tower is not convolutional")
        with torch.no_grad():
            sizes = self(torch.zeros(1, 3, 64, 64, dtype=encoder.model.logit_scale.dtype))
        self.channels = {name: int(maps.shape[1]) for name, maps in sizes.items()}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, found = images, {}
        for stage in self.stages:
            x = stage(x)
            found[round(images.shape[-1] / x.shape[-1])] = x  # the last map of each stride stays
        return {str(stride): found[stride].float() for stride in STRIDES}


def _backbone(tower: TimmModel) -> Any:
    embed: Any = getattr(tower.trunk, "patch_embed", None)
    return getattr(embed, "backbone", None)
