"""Between two models: exact at both ends, and what it says it is in between."""

import pytest
import torch

from retroclip.encoders import add_gates, average, gate_parameters, load
from retroclip.errors import ModelError

from .conftest import write_model
from .test_gates import open_gates


@pytest.fixture
def pair(fresh, tmp_path):
    other = write_model("resnet", tmp_path / "other", seed=1)
    return fresh("resnet"), load(other, precision="fp32")


@pytest.fixture
def gated(fresh):
    base = fresh("vit")
    encoder = base.copy()
    add_gates(encoder.model, last=2)
    open_gates(encoder.model)
    return base, encoder.with_model(encoder.model)


def test_weights_in_between(pair):
    a, b = pair
    states = a.model.state_dict(), b.model.state_dict()
    mixed = average(a, b, 0.25).model.state_dict()
    for name, value in mixed.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * states[0][name] + 0.25 * states[1][name])


def test_ends_are_the_models(pair, images):
    a, b = pair
    for weight, end in ((0, a), (1, b)):
        mixed = average(a, b, weight)
        assert mixed.fingerprint == end.fingerprint
        assert torch.equal(mixed.encode_images(images), end.encode_images(images))


def test_gates_are_scaled_towards_the_base(gated, images):
    base, encoder = gated
    for one, two, weights in ((base, encoder, (0, 1)), (encoder, base, (1, 0))):
        for weight, end in zip(weights, (base, encoder), strict=True):
            torch.testing.assert_close(
                average(one, two, weight).encode_images(images), end.encode_images(images), atol=1e-6, rtol=0
            )
    middle = average(base, encoder, 0.3)
    for mixed, whole in zip(gate_parameters(middle.model), gate_parameters(encoder.model), strict=True):
        if whole.ndim == 0:
            torch.testing.assert_close(mixed.tanh(), 0.3 * whole.tanh())
        else:
            assert torch.equal(mixed, whole)


def test_a_gated_branch_contributes_its_share(gated):
    _, encoder = gated
    block, scaled = (e.model.visual.transformer.resblocks[-1].gated_attn_block for e in (encoder, average(*gated, 0.4)))
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    for each in (block, scaled):  # the attention branch alone
        each.alpha_dense.data.zero_()
    torch.testing.assert_close(scaled(x) - x, 0.4 * (block(x) - x), atol=1e-6, rtol=0)


def test_the_inputs_are_left_alone(gated, images):
    base, encoder = gated
    before = base.encode_images(images), encoder.encode_images(images)
    average(base, encoder, 0.5)
    assert torch.equal(base.encode_images(images), before[0])
    assert torch.equal(encoder.encode_images(images), before[1])


def test_what_cant_be_averaged(gated, pair):
    base, encoder = gated
    with pytest.raises(ModelError, match="between 0 and 1"):
        average(base, encoder, 1.5)
    with pytest.raises(ModelError, match="different architectures"):
        average(base, pair[0], 0.5)
    other = base.copy()
    add_gates(other.model, last=1)
    with pytest.raises(ModelError, match="different layers"):
        average(other, encoder, 0.5)
