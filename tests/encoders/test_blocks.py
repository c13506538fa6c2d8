"""A tower cut in two gives the whole tower's embedding: frozen layers may be computed once."""

import pytest
import torch

from retroclip.encoders import add_gates, image_blocks, image_prefix, image_suffix
from retroclip.encoders.blocks import image_middle
from retroclip.encoders.loading import build
from retroclip.errors import ModelError

from .conftest import TEXT
from .test_gates import open_gates


@pytest.fixture(scope="module")
def hybrid():
    """The builtin model's image tower, with random weights."""
    vision = {"timm_model_name": "retroclip_hybrid_lite2_d6", "timm_pool": "", "image_size": 160}
    model = build({"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)
    return model.eval()


def pixels_for(model, count=3):
    size = model.visual.image_size
    size = size if isinstance(size, tuple) else (size, size)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def check_cuts(model, starts):
    pixels = pixels_for(model)
    with torch.no_grad():
        whole = model.encode_image(pixels)
        for start in starts:
            tokens = image_prefix(model, pixels, start)
            torch.testing.assert_close(image_suffix(model, tokens, start), whole, atol=1e-6, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["vit", "vit-quickgelu", "timm", "siglip"])
def test_prefix_and_suffix_are_the_tower(kind, fresh):
    check_cuts(fresh(kind).model, [0, 1, 3, 4])


def test_the_builtins_hybrid_tower(hybrid):
    assert len(image_blocks(hybrid)) == 6
    check_cuts(hybrid, [0, 2, 6])


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_gates_belong_to_the_suffix(kind, fresh):
    model = fresh(kind).model
    with torch.no_grad():
        plain = image_prefix(model, pixels_for(model), 2)
        add_gates(model, last=2)
        open_gates(model)
        assert torch.equal(image_prefix(model, pixels_for(model), 2), plain)
    check_cuts(model, [0, 2, 3])


def test_gradients_flow_through_the_suffix_alone(fresh):
    model = fresh("vit").model.requires_grad_(False)
    gates = add_gates(model, last=2)
    tokens = image_prefix(model, pixels_for(model), 2)
    assert not tokens.requires_grad
    image_suffix(model, tokens, 2).sum().backward()
    assert all(gate.alpha_attn.grad is not None for gate in gates)


def test_what_cant_be_cut(fresh):
    resnet, vit = (fresh(kind).model for kind in ("resnet", "vit"))
    with pytest.raises(ModelError, match="ViT"):
        image_prefix(resnet, pixels_for(resnet), 0)
    with pytest.raises(ModelError, match="blocks 0 to 3"):
        image_prefix(vit, pixels_for(vit), 5)


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_the_middle_joins_two_cuts(kind, fresh):
    model = fresh(kind).model
    with torch.no_grad():
        pixels = pixels_for(model)
        early, late = (image_prefix(model, pixels, start) for start in (1, 3))
        torch.testing.assert_close(image_middle(model, early, 1, 3), late, atol=1e-6, rtol=0)
    assert (early - late).abs().max() > 1e-3
