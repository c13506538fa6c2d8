import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retroclip.fusion import RecoFusion, mean_fusion
from retroclip.fusion.reco import IdentityLayer, PlainLayer


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


QUERY, NEIGHBOURS, SCORES = unit(5, 32), unit(5, 4, 32, seed=1), torch.rand(5, 4, generator=torch.Generator())


def test_plain_layer_behind_its_closed_gate_gives_the_base_embedding():
    torch.manual_seed(0)
    fusion = RecoFusion(32, init="plain")
    for side in ("image", "text"):
        assert (fusion(QUERY, NEIGHBOURS, side=side) - QUERY).abs().max() < 1e-6


def test_plain_layer_equals_a_transformer_layer_over_all_tokens():
    torch.manual_seed(0)
    layer = PlainLayer(32, heads=8).eval()
    reference = nn.TransformerEncoderLayer(32, 8, 128, 0.0, F.gelu, batch_first=True, norm_first=True).eval()
    state = {name: value for name, value in layer.state_dict().items() if name not in ("type_embedding", "gate")}
    reference.load_state_dict(state)
    layer.gate.data.fill_(20.0)
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[0, 2:] = mask[1] = False
    tokens = torch.cat([QUERY[:, None] + layer.type_embedding[0], NEIGHBOURS + layer.type_embedding[1]], dim=1)
    for allowed, padding in ((None, None), (mask, F.pad(~mask, (1, 0)))):
        every = reference(tokens, src_key_padding_mask=padding)
        torch.testing.assert_close(
            layer(QUERY, NEIGHBOURS, allowed, None), F.normalize(every[:, 0], dim=-1), atol=1e-5, rtol=1e-5
        )


def test_plain_layer_trains_like_a_transformer_layer_over_all_tokens():
    """Every parameter gets the gradient that it gets in the reference; the key bias, which has none, about zero."""
    torch.manual_seed(0)
    layer = PlainLayer(32, heads=4)
    reference = nn.TransformerEncoderLayer(32, 4, 128, 0.0, F.gelu, batch_first=True, norm_first=True)
    state = {name: value for name, value in layer.state_dict().items() if name not in ("type_embedding", "gate")}
    reference.load_state_dict(state)
    layer.gate.data.fill_(20.0)
    target = unit(5, 32, seed=3)
    (layer(QUERY, NEIGHBOURS, None, None) * target).sum().backward()
    tokens = torch.cat([QUERY[:, None] + layer.type_embedding[0], NEIGHBOURS + layer.type_embedding[1]], dim=1)
    own = layer.type_embedding.grad.clone()
    layer.type_embedding.grad = None
    (F.normalize(reference(tokens)[:, 0], dim=-1) * target).sum().backward()
    torch.testing.assert_close(own, layer.type_embedding.grad, atol=1e-5, rtol=1e-4)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(layer.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4)


def test_the_closed_gate_has_a_gradient():
    torch.manual_seed(0)
    layer = PlainLayer(32, heads=8)
    (layer(QUERY, NEIGHBOURS, None, None) * unit(5, 32, seed=3)).sum().backward()
    assert layer.gate.grad.abs() > 0


def test_identity_layer_with_flat_attention_is_mean_fusion():
    layer = IdentityLayer(32, mixing=0.7, similarity=0.0, search=0.0)
    torch.testing.assert_close(layer(QUERY, NEIGHBOURS, None, SCORES), mean_fusion(QUERY, NEIGHBOURS, 0.7))


def test_identity_layer_starts_as_its_formula():
    layer = IdentityLayer(32, mixing=0.6, similarity=5.0, consensus=0.5, search=3.0)
    for q, rs, scores, out in zip(QUERY, NEIGHBOURS, SCORES, layer(QUERY, NEIGHBOURS, None, SCORES), strict=True):
        asking = q + 0.5 * sum(rs) / 4
        logits = torch.stack([5.0 * asking @ r + 3.0 * s for r, s in zip(rs, scores, strict=True)])
        expected = 0.4 * q + 0.6 * sum(a * r for a, r in zip(logits.softmax(0), rs, strict=True))
        torch.testing.assert_close(out, expected / expected.norm())


def test_masked_neighbours_do_not_matter():
    layer = IdentityLayer(32)
    mask = torch.tensor([True, True, False, False]).repeat(5, 1)
    torch.testing.assert_close(
        layer(QUERY, NEIGHBOURS, mask, SCORES), layer(QUERY, NEIGHBOURS[:, :2], None, SCORES[:, :2])
    )
    torch.testing.assert_close(layer(QUERY, NEIGHBOURS, torch.zeros_like(mask), SCORES), QUERY)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="choose 'identity' or 'plain'"):
        RecoFusion(32, init="random")
