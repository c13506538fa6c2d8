import pytest
import timm
import torch
from timm.layers import Conv2dSame

from retroclip.encoders.hybrid import IMAGE_SIZE, ConvFeatures, HalvingConv, fold_batch_norm


def test_folding_is_exact():
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = net.forward_features(images)
        after = fold_batch_norm(net).forward_features(images)
    assert before.abs().mean() > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert not any("running" in name for name in net.state_dict())


@pytest.mark.parametrize(("kernel", "side"), [(3, 16), (5, 16), (3, 15), (5, 15)])
def test_a_halving_convolution_is_same_padding_to_the_bit(kernel, side):
    torch.manual_seed(0)
    same = Conv2dSame(8, 8, kernel, stride=2, groups=8)
    maps = torch.randn(2, 8, side, side + 2)
    with torch.inference_mode():
        expected = same(maps)
        assert torch.equal(HalvingConv.of(same)(maps), expected)


def test_features_in_chunks_are_those_of_one_batch():
    torch.manual_seed(0)
    features = ConvFeatures().eval()
    images = torch.randn(19, 3, 64, 64)
    with torch.inference_mode():
        whole = features.net.forward_features(images)
        torch.testing.assert_close(features(images), whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


def test_the_builtin_tower_is_six_blocks_over_a_frozen_feature_map():
    trunk = timm.create_model("retroclip_hybrid_lite2_d6")
    assert len(trunk.blocks) == 6
    assert sum(p.numel() for p in trunk.parameters()) == 14_199_344
    frozen = [*trunk.patch_embed.backbone.parameters(), *trunk.patch_embed.classifier.parameters()]
    assert not any(p.requires_grad for p in frozen)
    assert trunk(torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)).shape == (2, 320)


def test_every_token_carries_what_the_classifier_makes_of_the_whole_map():
    torch.manual_seed(0)
    embed = timm.create_model("retroclip_hybrid_lite2_d6").patch_embed
    maps = torch.randn(2, 1280, 5, 5)
    with torch.inference_mode():
        tokens = embed.embed_maps(maps)
        logits = maps.flatten(2).mean(2) @ embed.classifier.weight.T + embed.classifier.bias
        opinion = logits.exp() / logits.exp().sum(1, keepdim=True) @ embed.evidence.weight.T
        weight = embed.proj.weight.flatten(1)
        for row in range(25):
            own = maps[:, :, row // 5, row % 5] @ weight.T + embed.proj.bias
            torch.testing.assert_close(tokens[:, row], own + opinion, atol=1e-4, rtol=1e-4)
        hidden = embed.embed_maps(maps, drop=0.999999)
    torch.testing.assert_close(hidden, (opinion + embed.proj.bias)[:, None].expand_as(hidden), atol=1e-4, rtol=1e-4)
