"""Checkpoints with the names and wrappers of REACT's published ones, loaded by reference."""

import logging

import open_clip
import pytest
import torch
from open_clip.factory import get_model_config
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear, multi_head_attention_forward, normalize

from retroclip.encoders import add_gates, gate_parameters, load
from retroclip.encoders.gates import count_gates
from retroclip.encoders.loading import build
from retroclip.errors import ModelError

from .conftest import TEXTS


def published(state, alpha=None, seed=0):
    """A plain model's state dict with gates in its last two layers, named and shaped as the authors' code has it."""
    generator = torch.Generator().manual_seed(seed)
    state, width = dict(state), state["visual.conv1.weight"].shape[0]
    layers = len({name.split(".")[3] for name in state if name.startswith("visual.transformer.resblocks.")})
    shapes = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    for layer in (layers - 2, layers - 1):
        prefix = f"visual.transformer.resblocks.{layer}.gated_attn_block."
        for name, shape in shapes.items():
            state[prefix + name] = torch.randn(shape, generator=generator) * (1.0 if len(shape) == 1 else width**-0.5)
        for name in ("alpha_attn", "alpha_dense"):
            drawn = torch.randn((), generator=generator)
            state[prefix + name] = drawn if alpha is None else torch.tensor(alpha)
    return state


def authors_image_tower(state, pixels, heads, activation=gelu):
    """The image tower from a state dict alone, tokens first and batch second as in the authors' code."""

    def norm(x, name):
        return layer_norm(x, (x.shape[-1],), state[f"{name}.weight"], state[f"{name}.bias"])

    def residuals(x, name):
        for part in ("attn", "dense"):
            if part == "attn":
                own = f"{name}.attn."
                h, out = norm(x, f"{name}.ln_1"), (state[f"{own}out_proj.weight"], state[f"{own}out_proj.bias"])
                into = (state[f"{own}in_proj_weight"], state[f"{own}in_proj_bias"])
                h = multi_head_attention_forward(
                    h, h, h, h.shape[-1], heads, *into, None, None, False, 0.0, *out, need_weights=False
                )[0]
            else:
                own = f"{name}.mlp."
                h = linear(norm(x, f"{name}.ln_2"), state[f"{own}c_fc.weight"], state[f"{own}c_fc.bias"])
                h = linear(activation(h), state[f"{own}c_proj.weight"], state[f"{own}c_proj.bias"])
            gate = state.get(f"{name}.alpha_{part}")
            x = x + (h if gate is None else gate.tanh() * h)
        return x

    kernel = state["visual.conv1.weight"]
    x = conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = norm(x, "visual.ln_pre").transpose(0, 1)
    blocks = "visual.transformer.resblocks."
    for layer in range(len({name.split(".")[3] for name in state if name.startswith(blocks)})):
        if f"{blocks}{layer}.gated_attn_block.alpha_attn" in state:
            x = residuals(x, f"{blocks}{layer}.gated_attn_block")
        x = residuals(x, f"{blocks}{layer}")
    return normalize(norm(x[0], "visual.ln_post") @ state["visual.proj"], dim=-1)


WRAPPED = {
    "plain": lambda state: state,
    "training": lambda state: {
        "epoch": 32,
        "name": "react",
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4}]},
    },
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "vectors": lambda state: {n: v.reshape(1) if v.ndim == 0 else v for n, v in state.items()},
}


@pytest.fixture
def plain_state(fresh):
    return {name: value.clone() for name, value in fresh("vit").model.state_dict().items()}


@pytest.mark.parametrize("form", WRAPPED)
def test_published_files_give_the_authors_embeddings(form, plain_state, architecture, tmp_path):
    state = published(plain_state)
    torch.save(WRAPPED[form](state), tmp_path / "gated.pt")
    encoder = load(f"{architecture}@{tmp_path / 'gated.pt'}", precision="fp32")
    assert count_gates(encoder.model) == {"image": 2}
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = authors_image_tower(state, pixels, heads=4)
        ungated = authors_image_tower(published(plain_state, alpha=0.0), pixels, heads=4)
    assert (expected - ungated).abs().max() > 0.05
    torch.testing.assert_close(encoder.encode_images(pixels), expected, atol=5e-3 if form == "half" else 1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_closed_gates_give_the_base_models_embeddings_bit_for_bit(precision, plain_state, architecture, tmp_path):
    torch.save(plain_state, tmp_path / "base.pt")
    torch.save(published(plain_state, alpha=0.0), tmp_path / "closed.pt")
    base, closed = (load(f"{architecture}@{tmp_path / f}.pt", precision=precision) for f in ("base", "closed"))
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    assert torch.equal(closed.encode_images(pixels), base.encode_images(pixels))
    assert torch.equal(closed.encode_texts(TEXTS), base.encode_texts(TEXTS))


def test_gates_in_the_middle_are_refused(plain_state, architecture, tmp_path):
    state = published(plain_state)
    state = {name: value for name, value in state.items() if ".3.gated_attn_block" not in name}
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="not those of its last layers"):
        load(f"{architecture}@{tmp_path / 'odd.pt'}")


def test_a_published_name_warns_of_the_other_activation(plain_state, architecture, tmp_path, caplog):
    """REACT's `clip-…` files come from OpenAI's models (QuickGELU), its `openclip-…` files don't."""
    for name, variant, warned in [
        ("clip-vit-base-32-gated-image.pt", "", True),
        ("clip-vit-base-32-gated-image.pt", "-quickgelu", False),
        ("openclip-laion2b-vit-base-32-gated-image.pt", "-quickgelu", True),
        ("openclip-vit-large-14-gated-image-laion2b.pt", "", False),
    ]:
        torch.save(published(plain_state), tmp_path / name)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="retroclip"):
            load(f"{architecture}{variant}@{tmp_path / name}")
        assert bool(caplog.records) == warned, name


@pytest.mark.parametrize("suffix", ["", "-laion2b"])
def test_the_l14_of_laion_2b_takes_its_pixels_as_the_authors_give_them(suffix, plain_state, architecture, tmp_path):
    """`react_openclip_laion2b_ret_…` of react_ViT-L-14 has a mean and a deviation of 0.5 in the authors' pretrained.py;
    of their other files none is recorded, which means OpenAI's."""
    made = {}
    for name in ("openclip-vit-large-14-gated-image", "clip-vit-large-14-gated-image"):
        torch.save(published(plain_state), tmp_path / f"{name}{suffix}.pt")
        made[name] = load(f"{architecture}@{tmp_path / f'{name}{suffix}.pt'}", precision="fp32")
    other, plain = made.values()
    assert other.preprocess_cfg["mean"] == other.preprocess_cfg["std"] == (0.5,) * 3
    assert plain.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    grey = Image.new("RGB", (40, 40), (255, 255, 255))
    assert torch.equal(other.preprocess(grey), torch.ones(3, 32, 32))
    other.save(tmp_path / "saved")
    assert load(tmp_path / "saved").preprocess_cfg["mean"] == [0.5] * 3


@pytest.mark.parametrize("file", ["clip-vit-base-32-gated-image.pt", "clip-vit-base-32-gated-image.safetensors"])
def test_a_file_in_the_hubs_cache_is_known_by_its_name(file, plain_state, architecture, tmp_path, caplog):
    """hf_hub_download gives snapshots/…/NAME, a link to blobs/HASH without a suffix."""
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    save_file(published(plain_state), blob) if file.endswith("s") else torch.save(published(plain_state), blob)
    (tmp_path / file).symlink_to(blob)
    with caplog.at_level(logging.WARNING, logger="retroclip"):
        encoder = load(f"{architecture}@{tmp_path / file}", precision="fp32")
    assert caplog.records and encoder.loaded_from.endswith(file)
    assert count_gates(encoder.model) == {"image": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-32", 42_527_244), ("ViT-L-14", 75_577_356)])
def test_at_full_size(name, parameters, tmp_path):
    torch.manual_seed(0)
    plain = open_clip.model.CLIP(**get_model_config(name))
    size, base = plain.visual.image_size[0], dict(plain.state_dict())
    gated = build(get_model_config(name))
    add_gates(gated, last=6)
    assert sum(p.numel() for p in gate_parameters(gated)) == parameters
    for parameter in gate_parameters(gated):
        nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.normal_(parameter)
    state = {n: base.get(n, v) for n, v in gated.state_dict().items()}
    torch.save(WRAPPED["training"](state), tmp_path / "gated.pt")
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))
    encoder = load(f"{name}@{tmp_path / 'gated.pt'}", precision="fp32")
    with torch.no_grad():
        expected = authors_image_tower(state, pixels, heads=plain.visual.transformer.resblocks[0].attn.num_heads)
        before = normalize(plain.eval().encode_image(pixels), dim=-1)
    torch.testing.assert_close(encoder.encode_images(pixels), expected, atol=1e-5, rtol=0)
    assert (expected - before).abs().max() > 1e-2
    for parameter in gate_parameters(encoder.model):
        if parameter.ndim == 0:
            parameter.data.zero_()
    torch.testing.assert_close(encoder.encode_images(pixels), before, atol=1e-6, rtol=0)
