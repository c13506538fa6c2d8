"""The maps inside an image tower, frozen: what a detector or segmenter is built on.

Convolutional towers and those of shifted windows (Swin) have them at strides 8, 16 and 32; plain ViTs have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from retroclip.encoders.consulting import refuse_consulting
from retroclip.encoders.dense import LastDense, any_size, stride
from retroclip.encoders.hybrid import ConvFeatures
from retroclip.encoders.precision import DTYPES
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

STRIDES = (8, 16, 32)
LEVELS = [str(stride) for stride in STRIDES]


class ConvPyramid(nn.Module):
    """Images (B, 3, H, W), preprocessed → {"8": (B, c, H/8, W/8), "16": …, "32": …}, frozen and without gradients.

    For the builtin's convolutional part and open_clip's ResNets. Raises ModelError for other towers.
    `channels` has c of each level; sides must be multiples of `step`, as `whole_image` makes them: else ModelError.
    """

    step = STRIDES[-1]

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
        self._place = (encoder.device, DTYPES[encoder.precision])
        self.channels = {name: int(maps.shape[1]) for name, maps in self(torch.zeros(1, 3, 64, 64)).items()}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, maps = images.to(*self._place), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return _by_stride(images, maps)


class StagePyramid(nn.Module):
    """The same of a timm tower in stages (Swin, ConvNeXt, ResNet), each position normalised over its channels.

    Raises ModelError for towers without maps at all three strides, and for those that do not take images of every size.
    """

    step = STRIDES[-1]

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        tower: Any = encoder.model.visual
        trunk = getattr(tower, "trunk", None)
        strides = {int(each["reduction"]) for each in getattr(trunk, "feature_info", None) or ()}
        if not strides.issuperset(STRIDES) or not hasattr(trunk, "forward_intermediates"):
            raise ModelError(f"{encoder.name}: no feature pyramid, its image tower has no stages of several strides")
        self._trunk, self._place = [trunk], (encoder.device, DTYPES[encoder.precision])
        try:
            maps = self(torch.zeros(1, 3, 64, 96))
        except (AssertionError, RuntimeError) as error:
            name = type(trunk).__name__
            raise ModelError(
                f"{encoder.name}: no feature pyramid, a {name} does not take images of every size"
            ) from error
        self.channels = {name: int(each.shape[1]) for name, each in maps.items()}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        trunk: Any = self._trunk[0]
        with any_size(trunk):
            found = _by_stride(images, trunk.forward_intermediates(images.to(*self._place), intermediates_only=True))
        return {name: F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for name, x in found.items()}


class PatchMap(nn.Module):
    """Images (B, 3, H, W), preprocessed → the patch embeddings of a ViT as {level: (B, d, h, w)}, the only level.

    Those of `dense_map`, in the joint space. The level is the power of two next to the size of a patch, at which a
    detector may take the map to be: a patch of 14 pixels then is one of 16 on an image that is larger by 16/14. `step`
    is the multiple of whole patches which are whole positions on all of `LEVELS`. Raises ModelError as `dense_map`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        patch = stride(encoder)
        level = 2 ** round(torch.tensor(patch).log2().item())
        self.dense, self.level = LastDense(encoder), str(level)
        self.step = patch * max(STRIDES[-1] // level, 1)
        self.channels = {self.level: encoder.dim}
        self(torch.zeros(1, 3, self.step, self.step))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {self.level: self.dense(images).features.permute(0, 3, 1, 2).contiguous()}


def staged_maps(encoder: Encoder) -> ConvPyramid | StagePyramid | None:
    """The three levels of a tower, None where it has none."""
    for kind in (ConvPyramid, StagePyramid):
        try:
            return kind(encoder)
        except ModelError:
            continue
    return None


def tower_maps(encoder: Encoder) -> ConvPyramid | StagePyramid | PatchMap:
    """What a tower has: three levels, or one.

    ModelError, which names the towers that have some, for those without, and for an encoder that consults a memory.
    """
    refuse_consulting(encoder, "train a detector on the model beneath it")
    tower: Any = encoder.model.visual
    try:
        if isinstance(tower, ModifiedResNet) or _backbone(tower) is not None:
            return ConvPyramid(encoder)
        if isinstance(tower, TimmModel) and not isinstance(tower.trunk, TimmVisionTransformer):
            return StagePyramid(encoder)
        return PatchMap(encoder)
    except ModelError as error:
        raise ModelError(
            f"{error}; a detector can be built on the builtin, plain ViTs and ResNets of open_clip, and plain ViTs,"
            " Swin, ConvNeXt and ResNets of timm"
        ) from error


def _by_stride(images: Tensor, maps: list[Tensor]) -> dict[str, Tensor]:
    """The last map of each of `STRIDES`, float32 on the CPU; ModelError where they have no whole positions."""
    height, width = images.shape[-2:]
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise ModelError(f"a feature pyramid takes sides that are multiples of {STRIDES[-1]}, not {width} x {height}")
    found = {round(images.shape[-1] / x.shape[-1]): x for x in maps}
    return {str(stride): found[stride].float().cpu() for stride in STRIDES}


def _backbone(tower: Any) -> Any:
    embed: Any = getattr(getattr(tower, "trunk", None), "patch_embed", None)
    return getattr(embed, "backbone", None)
