"""Attention without copies is PyTorch's own, values and gradients."""

import pytest
import torch
from torch import nn

from retroclip.encoders.attention import FlatAttention, flat_attention, self_attention


def mask_of(kind, batch, heads, length):
    causal = torch.ones(length, length).tril().bool()
    return {
        "none": None,
        "boolean": ~causal,
        "additive": torch.zeros(length, length).masked_fill(~causal, float("-inf")),
        "per head": torch.randn(batch * heads, length, length, generator=torch.Generator().manual_seed(1)),
    }[kind]


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "per head"])
def test_values_and_gradients_are_those_of_the_module(kind):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, 4, batch_first=True)
    nn.init.normal_(module.in_proj_bias)
    mask, grads = mask_of(kind, 3, 4, 7), []
    tokens = torch.randn(3, 7, 24)
    weight = torch.randn(3, 7, 24)
    for run in (
        lambda x: module(x, x, x, need_weights=False, attn_mask=mask)[0],
        lambda x: self_attention(module, x, mask),
    ):
        x = tokens.clone().requires_grad_()
        out = run(x)
        (weight * out).sum().backward()
        grads.append([out.detach(), x.grad, *(p.grad.clone() for p in module.parameters())])
        module.zero_grad()
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_models_attention_is_flat_while_it_trains_and_only_then(fresh):
    model = fresh("vit").model
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = model.encode_image(pixels)
    with flat_attention(model):
        assert any(type(module) is FlatAttention for module in model.modules())
        torch.testing.assert_close(model.encode_image(pixels), plain, atol=1e-5, rtol=1e-4)
    assert not any(type(module) is FlatAttention for module in model.modules())


def test_other_calls_go_to_the_module():
    torch.manual_seed(0)
    module = FlatAttention(24, 4, batch_first=True)
    x, other = torch.randn(2, 5, 24), torch.randn(2, 3, 24)
    assert module(x, x, x)[1].shape == (2, 5, 5)
    assert module(x, other, other, need_weights=False)[0].shape == x.shape
    padding = torch.zeros(2, 5, dtype=torch.bool)
    assert module(x, x, x, need_weights=False, key_padding_mask=padding)[0].shape == x.shape
