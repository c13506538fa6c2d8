"""Dense features against the same towers run with a mask, in a loop, or on an image of one position."""

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from retroclip.encoders import Encoder, add_gates
from retroclip.encoders.dense import dense_map, pool_boxes, pool_map, stride, whole_image
from retroclip.encoders.hybrid import IMAGE_SIZE
from retroclip.encoders.loading import build
from retroclip.errors import ModelError


def pixels(size=32, count=2):
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return 2 * F.interpolate(coarse, size=(size, size))


def open_gates(encoder):
    for gate in add_gates(encoder.model, last=2):
        gate.alpha_attn.data.fill_(0.7)
        gate.alpha_dense.data.fill_(-0.4)
    return encoder


@torch.no_grad()
def by_mask(model, images):
    """An open_clip ViT whose last block may attend to nothing but the token itself: the reading with the residual."""
    tower = model.visual
    x = tower._embeds(images)
    for block in tower.transformer.resblocks[:-1]:
        x = block(x)
    last = tower.transformer.resblocks[-1]
    if hasattr(last, "gated_attn_block"):
        x = last.gated_attn_block(x)
    alone = torch.full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0)
    x = type(last).forward(last, x, attn_mask=alone)
    return F.normalize(tower.ln_post(x)[:, 1:] @ tower.proj, dim=-1)


@torch.no_grad()
def by_formula(model, images, residual):
    """MaskCLIP's formula written out, token by token."""
    tower = model.visual
    x = tower._embeds(images)
    for block in tower.transformer.resblocks[:-1]:
        x = block(x)
    last, d = tower.transformer.resblocks[-1], x.shape[-1]
    weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
    rows = []
    for image in x:
        own = []
        for token in image[1:]:
            value = last.attn.out_proj(weight[2 * d :] @ last.ln_1(token) + bias[2 * d :])
            value = value + token if residual else value
            value = value + last.mlp(last.ln_2(value))
            own.append(F.normalize(tower.ln_post(value) @ tower.proj, dim=0))
        rows.append(torch.stack(own))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["vit", "vit-quickgelu"])
@pytest.mark.parametrize("gated", [False, True])
def test_open_clip_vit_equals_a_diagonal_mask(fresh, kind, gated):
    encoder = open_gates(fresh(kind)) if gated else fresh(kind)
    found = dense_map(encoder, pixels())
    assert found.features.shape == (2, 4, 4, 32) and found.keys.shape == (2, 4, 4, 64)
    torch.testing.assert_close(found.features.flatten(1, 2), by_mask(encoder.model, pixels()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_both_readings_equal_the_formula(fresh, residual):
    encoder = fresh("vit")
    found = dense_map(encoder, pixels(), residual=residual)
    expected = by_formula(encoder.model, pixels(), residual)
    torch.testing.assert_close(found.features.flatten(1, 2), expected, atol=1e-5, rtol=1e-4)
    last, tokens = encoder.model.visual.transformer.resblocks[-1], {}
    handle = last.register_forward_pre_hook(lambda _, args: tokens.update(x=args[0]))
    with torch.no_grad():
        encoder.model.encode_image(pixels())
        handle.remove()
        part = slice(64, 128)
        keys = last.ln_1(tokens["x"]) @ last.attn.in_proj_weight[part].T + last.attn.in_proj_bias[part]
    torch.testing.assert_close(found.keys.flatten(1, 2), keys[:, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_timm_vit_equals_a_diagonal_mask(fresh, gated):
    encoder = open_gates(fresh("timm")) if gated else fresh("timm")
    trunk = encoder.model.visual.trunk
    x = trunk._pos_embed(trunk.patch_embed(pixels()))
    for block in trunk.blocks[:-1]:
        x = block(x)
    last = trunk.blocks[-1]
    x = last.gated_attn_block(x) if gated else x
    x = type(last).forward(last, x, attn_mask=torch.eye(x.shape[1], dtype=torch.bool))
    expected = F.normalize(encoder.model.visual.head(trunk.norm(x)[:, 1:]), dim=-1)
    torch.testing.assert_close(dense_map(encoder, pixels()).features.flatten(1, 2), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_siglip_pools_every_patch_alone(fresh):
    encoder = fresh("siglip")
    trunk = encoder.model.visual.trunk
    tokens = trunk.forward_features(pixels())
    alone = [trunk.forward_head(tokens[:, i : i + 1]) for i in range(16)]
    expected = F.normalize(encoder.model.visual.head(torch.stack(alone, 1)), dim=-1)
    found = dense_map(encoder, pixels())
    torch.testing.assert_close(found.features.flatten(1, 2), expected, atol=1e-5, rtol=1e-4)
    assert found.keys.shape == (2, 4, 4, 64)


@torch.no_grad()
def test_resnet_equals_attention_pooling_without_queries(fresh):
    encoder = fresh("resnet")
    found = dense_map(encoder, pixels(64))
    tower = encoder.model.visual
    maps = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels(64))))))
    pool = tower.attnpool
    one = maps[1, :, 1, 0]
    expected = pool.c_proj.weight @ (pool.v_proj.weight @ one + pool.v_proj.bias) + pool.c_proj.bias
    torch.testing.assert_close(found.features[1, 1, 0], F.normalize(expected, dim=0), atol=1e-5, rtol=1e-4)
    assert found.features.shape == (2, 2, 2, 32)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
@torch.no_grad()
def test_towers_that_end_in_a_mean_pool_each_position_alone(fresh, name):
    base = fresh("timm")
    vision = {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    cfg = base.model_cfg | {"vision_cfg": vision}
    encoder = Encoder("a", build(cfg), base.tokenizer, model_cfg=cfg,
                      preprocess_cfg=base.preprocess_cfg)  # fmt: skip
    torch.manual_seed(0)
    for parameter in encoder.model.visual.parameters():  # `build` leaves weights undrawn
        parameter.normal_(std=0.1)
    if name.startswith("swin"):
        tower = encoder.model.visual
        either = timm.create_model(name, strict_img_size=False, num_classes=0, global_pool="").eval()
        either.load_state_dict(tower.trunk.state_dict())
        for images in (pixels(224, 1), pixels(96, 1), pixels(256, 1)[:, :, :160]):
            found = dense_map(encoder, images)
            assert found.features.shape == (1, images.shape[2] // 32, images.shape[3] // 32, 32)
            expected = F.normalize(tower.head(either(images)), dim=-1)
            torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-4)
        with pytest.raises(AssertionError, match="doesn't match model"):  # as it was again
            tower(pixels(96, 1))
    else:
        found = dense_map(encoder, pixels(64))
        assert found.features.shape == (2, 2, 2, 32)
        # A constant map pooled over its positions is what one position alone gives.
        constant = torch.zeros(1, 3, 32, 32)
        assert dense_map(encoder, constant).features.shape[1:3] == (1, 1)
        whole = F.normalize(encoder.model.encode_image(constant), dim=-1)
        torch.testing.assert_close(dense_map(encoder, constant).features[:, 0, 0], whole, atol=1e-5, rtol=1e-4)
    assert found.keys is None


def test_the_builtin_and_other_sizes():
    import retroclip

    encoder = retroclip.load("builtin")
    assert stride(encoder) == 32
    assert dense_map(encoder, pixels(IMAGE_SIZE, 1)).features.shape == (1, 5, 5, encoder.dim)
    image = Image.new("RGB", (171, 128), "red")
    assert whole_image(encoder, image, 224).shape == (3, 224, 288)
    assert dense_map(encoder, whole_image(encoder, image, 224)[None]).features.shape == (1, 7, 9, encoder.dim)
    assert pool_boxes(encoder, image, [[0, 0, 50, 50], [100, 20, 70, 100]]).shape == (2, encoder.dim)


def test_positions_are_interpolated(fresh):
    encoder = fresh("vit")
    found = dense_map(encoder, pixels(48, 1)).features
    assert found.shape == (1, 6, 6, 32) and torch.isfinite(found).all()


def test_a_box_of_the_map_pools_its_own_positions():
    features = F.normalize(torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    constant = features.clone()
    constant[:2, :3] = features[0, 0]
    pooled = pool_map(constant, torch.tensor([[0.0, 0.0, 30.0, 20.0]]), (60, 40))
    # Samples near the inner edges are interpolated with what lies beyond them.
    assert float(pooled[0] @ features[0, 0]) > 0.9


def test_towers_of_another_kind_are_refused(fresh):
    encoder = fresh("vit")
    encoder.model.visual = torch.nn.Identity()
    with pytest.raises(ModelError, match="no dense features from a Identity"):
        dense_map(encoder, pixels())


def test_numbers_that_are_not_finite_stop(fresh):
    encoder = fresh("vit")
    encoder.model.visual.proj.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="aren't finite"):
        dense_map(encoder, pixels())
