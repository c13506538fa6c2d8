"""Frozen maps of each kind of tower, against timm's own feature extractors and the dense maps."""

import re

import pytest
import timm
import torch

from retroclip.encoders import Encoder
from retroclip.encoders.dense import dense_map
from retroclip.encoders.loading import build
from retroclip.encoders.pyramid import ConvPyramid, PatchMap, StagePyramid, tower_maps
from retroclip.errors import ModelError


def pixels(height=64, width=96):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def with_timm(base, name):
    """An encoder with random weights and a tower of timm."""
    cfg = base.model_cfg | {"vision_cfg": {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear"}}
    torch.manual_seed(0)
    return Encoder("a", build(cfg, draw=True), base.tokenizer, model_cfg=cfg, preprocess_cfg=base.preprocess_cfg)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
@torch.no_grad()
def test_stages_are_those_of_timm(fresh, name):
    encoder = with_timm(fresh("timm"), name)
    maps = tower_maps(encoder)
    assert isinstance(maps, StagePyramid) and maps.step == 32 and not list(maps.parameters())
    options = {"strict_img_size": False} if name.startswith("swin") else {}
    peer = timm.create_model(name, features_only=True, out_indices=(1, 2, 3), **options).eval()
    weights = encoder.model.visual.trunk.state_dict()
    renamed = {re.sub(r"^(stem|stages|layers)\.", r"\1_", key): value for key, value in weights.items()}
    assert not peer.load_state_dict(renamed, strict=False).missing_keys
    found = maps(pixels())
    for (level, each), raw in zip(found.items(), peer(pixels()), strict=True):
        stage = raw if name.startswith("swin") else raw.permute(0, 2, 3, 1)
        centred = stage - stage.mean(-1, keepdim=True)
        expected = (centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).permute(0, 3, 1, 2)
        torch.testing.assert_close(each, expected, atol=1e-4, rtol=1e-4)
        assert each.shape == (1, maps.channels[level], 64 // int(level), 96 // int(level))


def test_a_vit_has_the_map_of_its_patches(fresh):
    for kind in ("vit", "timm", "siglip"):
        encoder = fresh(kind)
        maps = tower_maps(encoder)
        assert isinstance(maps, PatchMap) and maps.step == 32 and not list(maps.parameters())
        ((level, found),) = maps(pixels()).items()
        assert (level, maps.channels) == ("8", {"8": encoder.dim})
        torch.testing.assert_close(found.permute(0, 2, 3, 1), dense_map(encoder, pixels()).features)


def test_a_pyramid_in_bf16_takes_pixels_as_they_come(fresh):
    encoder = fresh("resnet")
    expected = tower_maps(encoder)(pixels())
    found = tower_maps(encoder.copy(precision="bf16"))(pixels())
    for level, each in found.items():
        assert each.dtype == torch.float32 and each.shape == expected[level].shape
        assert float(torch.cosine_similarity(each.flatten(), expected[level].flatten(), dim=0)) > 0.99


def test_sides_without_whole_positions_are_named(fresh):
    for encoder in (fresh("resnet"), with_timm(fresh("timm"), "convnext_atto")):
        with pytest.raises(ModelError, match="sides that are multiples of 32, not 64 x 48"):
            tower_maps(encoder)(pixels(48, 64))


def test_towers_without_maps_are_refused_with_those_that_have_some(fresh):
    base = fresh("timm")
    for name, why in (
        ("maxvit_pico_rw_256", "a MaxxVit does not take images of every size"),
        ("levit_128s", "its image tower has no stages of several strides"),
        ("vit_tiny_r_s16_p8_224", "its image tower is not convolutional"),
    ):
        with pytest.raises(ModelError) as told:
            tower_maps(with_timm(base, name))
        assert f"no feature pyramid, {why}; a detector can be built on the builtin, plain ViTs" in str(told.value)
    with pytest.raises(ModelError, match="not convolutional"):
        ConvPyramid(base)
