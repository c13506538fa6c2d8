"""REACT's gated blocks: the formula, the names, and what they leave alone."""

import copy
import math

import open_clip
import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, softmax

from retroclip.encoders import GatedBlock, add_gates, gate_parameters, gated_blocks, image_blocks, text_blocks
from retroclip.encoders.gates import count_gates
from retroclip.errors import ModelError

from .conftest import TEXTS

GATED_KINDS = ["vit", "vit-quickgelu", "timm", "siglip", "hf"]


def open_gates(model, seed=0, std=0.1):
    """Random gates and random everything inside them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in gate_parameters(model):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = (0.7 * noise.sign() if parameter.ndim == 0 else parameter + std * noise).to(parameter.dtype)


def attend(x, block, mask=None):
    """Multi-head self-attention written out, one head at a time; mask (L, L) True where attention is allowed."""
    query, key, value = linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    size = x.shape[-1] // block.attn.num_heads
    heads = []
    for h in range(block.attn.num_heads):
        part = slice(h * size, (h + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        heads.append(softmax(scores, dim=-1) @ value[..., part])
    return linear(torch.cat(heads, dim=-1), block.attn.out_proj.weight, block.attn.out_proj.bias)


def formula(x, block, activation, mask=None):
    """methods.md §3, from the block's tensors alone."""
    width = (x.shape[-1],)
    normed = layer_norm(x, width, block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
    x = x + torch.tanh(block.alpha_attn) * attend(normed, block, mask)
    normed = layer_norm(x, width, block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
    hidden = activation(linear(normed, block.mlp.c_fc.weight, block.mlp.c_fc.bias))
    return x + torch.tanh(block.alpha_dense) * linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias)


ACTIVATIONS = {"vit": gelu, "timm": gelu, "hf": gelu, "vit-quickgelu": lambda x: x * torch.sigmoid(1.702 * x)}


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_block_is_the_formula_with_the_hosts_activation_and_heads(kind, fresh):
    model = fresh(kind).model
    block = add_gates(model, last=1)[0]
    open_gates(model)
    x = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(1))
    assert block.attn.num_heads == 4
    with torch.no_grad():
        expected = formula(x, block, ACTIVATIONS[kind])
        assert (expected - x).abs().max() > 0.1
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=0)


def test_causal_mask_reaches_the_gate(fresh):
    model = fresh("vit").model
    block = add_gates(model, last=1, tower="text")[0]
    open_gates(model)
    x = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(2))
    causal = torch.ones(6, 6).tril().bool()
    with torch.no_grad():
        seen = block(x, attn_mask=torch.zeros(6, 6).masked_fill(~causal, float("-inf")))
        torch.testing.assert_close(seen, formula(x, block, gelu, causal), atol=1e-5, rtol=0)
        assert (seen - formula(x, block, gelu)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["vit", "timm", "hf"])
def test_gated_texts_dont_depend_on_padding(kind, fresh):
    """Texts embed the same alone (trimmed short) and in a batch with a longer one (padded)."""
    encoder = fresh(kind)
    before = encoder.encode_texts(TEXTS)
    add_gates(encoder.model, last=2, tower="text")
    open_gates(encoder.model)
    together = encoder.encode_texts(TEXTS)
    alone = torch.cat([encoder.encode_texts([text]) for text in TEXTS])
    assert (together - before).abs().max() > 1e-2
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    with torch.no_grad():
        whole = nn.functional.normalize(encoder.model.encode_text(encoder.tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(whole, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("kind", GATED_KINDS)
def test_zero_gates_change_no_bit(kind, tower, fresh, images):
    encoder = fresh(kind)
    before = encoder.encode_images(images), encoder.encode_texts(TEXTS)
    add_gates(encoder.model, last=2, tower=tower)
    after = encoder.encode_images(images), encoder.encode_texts(TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_zero_gates_change_no_bit_with_gradients_on(fresh):
    model = fresh("vit").model
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    before = model.encode_image(pixels)
    add_gates(model, last=3)
    assert torch.equal(model.encode_image(pixels), before)


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-32", 42_527_244), ("ViT-L-14", 75_577_356)])
def test_parameter_counts_of_the_paper(name, parameters):
    cfg = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.model.CLIP(**cfg)
        add_gates(model, last=6)
    width = cfg["vision_cfg"]["width"]
    assert sum(p.numel() for p in gate_parameters(model)) == parameters == 6 * (12 * width**2 + 13 * width + 2)


def test_names_of_the_published_checkpoints(fresh):
    model = fresh("vit").model
    before = set(model.state_dict())
    add_gates(model, last=2)
    inside = [
        f"{m}.{p}" for m in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.out_proj") for p in ("weight", "bias")
    ]
    inside += ["attn.in_proj_weight", "attn.in_proj_bias", "alpha_attn", "alpha_dense"]
    expected = {f"visual.transformer.resblocks.{i}.gated_attn_block.{name}" for i in (2, 3) for name in inside}
    assert set(model.state_dict()) - before == expected


def step(model, optimiser, pixels, targets):
    optimiser.zero_grad()
    features = nn.functional.normalize(model.encode_image(pixels), dim=-1)
    loss = nn.functional.cross_entropy(model.logit_scale.exp() * features @ targets.T, torch.arange(len(pixels)))
    loss.backward()
    gradients = {n: p.grad.abs().max().item() for n, p in model.named_parameters() if p.grad is not None}
    optimiser.step()
    return {name for name, size in gradients.items() if size > 0}


def test_first_step_moves_the_gates_and_the_second_everything(fresh):
    model = fresh("vit").model.requires_grad_(False)
    add_gates(model, last=2)
    trained = [*gate_parameters(model), model.logit_scale]
    for parameter in trained:
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randn(4, 3, 32, 32, generator=generator)
    targets = nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=-1)
    optimiser = torch.optim.SGD(trained, lr=0.1)
    first, second = (step(model, optimiser, pixels, targets) for _ in range(2))
    assert {name.rsplit(".", 1)[-1] for name in first} == {"alpha_attn", "alpha_dense", "logit_scale"}
    assert len(second) == len(trained)


def test_bf16_gates_stay_close_and_their_alphas_stay_exact(fresh, images):
    exact = fresh("vit")
    add_gates(exact.model, last=3)
    open_gates(exact.model, std=0.02)
    low = exact.copy(precision="bf16")
    assert low.model.visual.transformer.resblocks[-1].gated_attn_block.ln_1.weight.dtype == torch.bfloat16
    alphas = [[p for p in gate_parameters(e.model) if p.ndim == 0] for e in (exact, low)]
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(*alphas, strict=True))
    assert (exact.encode_images(images) * low.encode_images(images)).sum(-1).min() >= 0.999


def test_copies_are_independent(fresh, images):
    encoder = fresh("timm")
    add_gates(encoder.model, last=2)
    before = encoder.encode_images(images)
    other = encoder.with_model(copy.deepcopy(encoder.model))
    open_gates(other.model)
    assert (other.encode_images(images) - before).abs().max() > 1e-2
    assert torch.equal(encoder.encode_images(images), before)


@pytest.mark.parametrize("kind", ["vit", "timm", "siglip"])
def test_gates_sit_before_the_last_blocks(kind, fresh):
    model = fresh(kind).model
    blocks = add_gates(model, last=3)
    hosts = list(image_blocks(model))[-3:]
    assert [host.gated_attn_block for host in hosts] == blocks == gated_blocks(model)
    seen = []
    hosts[0].gated_attn_block.register_forward_hook(lambda *call: seen.append("gate"))
    hosts[0].register_forward_hook(lambda *call: seen.append("host"))
    size = model.visual.image_size
    with torch.no_grad():
        model.encode_image(torch.zeros(1, 3, *(size if isinstance(size, tuple) else (size, size))))
    assert seen == ["gate", "host"]


def test_new_gates_are_at_pytorchs_defaults(fresh):
    model = fresh("vit").model
    torch.manual_seed(7)
    block = add_gates(model, last=1)[0]
    torch.manual_seed(7)
    fresh = GatedBlock(64, 4, nn.GELU())
    assert all(torch.equal(a, b) for a, b in zip(block.parameters(), fresh.parameters(), strict=True))
    assert count_gates(model) == {"image": 1}


def test_what_cant_be_gated(fresh):
    vit, resnet = (fresh(kind).model for kind in ("vit", "resnet"))
    with pytest.raises(ModelError, match="4 blocks"):
        add_gates(vit, last=5)
    with pytest.raises(ModelError, match="unknown tower"):
        add_gates(vit, last=1, tower="vision")
    with pytest.raises(ModelError, match="ViT"):
        add_gates(resnet, last=1)
    add_gates(vit, last=1)
    with pytest.raises(ModelError, match="already"):
        add_gates(vit, last=1)
    assert len(text_blocks(resnet)) == 3
