"""Features before the projection, against the towers run by hand."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from retroclip.classifiers import stacked_linear
from retroclip.encoders import Encoder, add_gates
from retroclip.encoders.dense import pool_boxes
from retroclip.encoders.features import FeatureEncoder, feature_tap
from retroclip.encoders.loading import build
from retroclip.encoders.regions import encode_cuts
from retroclip.errors import ModelError
from retroclip.tasks import Task


def pixels(size=32, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(kind, tower, images):
    """The pooled output before the last projection."""
    if kind == "vit":
        projection, tower.proj = tower.proj, None
        features = tower(images)
        tower.proj = projection
        return features
    if kind == "resnet":
        return tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images))))).mean((2, 3))
    return tower.trunk(images)


@pytest.mark.parametrize(("kind", "width"), [("vit", 64), ("resnet", 512), ("timm", 64), ("siglip", 64), ("hf", 64)])
def test_features_follow_the_embedding(fresh, kind, width):
    encoder = fresh(kind)
    images = pixels(64 if kind == "resnet" else 32)
    rows = FeatureEncoder(encoder).encode_images(images, batch_size=2)
    torch.testing.assert_close(rows[:, : encoder.dim], encoder.encode_images(images, batch_size=2), rtol=0, atol=0)
    expected = F.normalize(by_hand("vit" if kind == "hf" else kind, encoder.model.visual, images), dim=-1)
    torch.testing.assert_close(rows[:, encoder.dim :], expected)
    assert rows.shape == (3, encoder.dim + width)
    assert not encoder.model.visual._forward_hooks


def test_a_vits_features_project_to_its_embedding_through_open_gates(fresh):
    encoder = fresh("vit")
    before = FeatureEncoder(encoder).encode_images(pixels())[:, encoder.dim :]
    for gate in add_gates(encoder.model, last=2):
        gate.alpha_attn.data.fill_(0.7)
    rows = FeatureEncoder(encoder).encode_images(pixels())
    embeddings, features = rows.split([encoder.dim, 64], dim=1)
    torch.testing.assert_close(F.normalize(features @ encoder.model.visual.proj, dim=-1), embeddings)
    assert not torch.allclose(features, before)


def test_a_hybrids_features_are_those_of_its_convolutional_net():
    vision = {"timm_model_name": "retroclip_hybrid_lite2_d6", "timm_pool": "avg", "image_size": 160}
    text = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 49408, "context_length": 8}
    cfg = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    model = build(cfg)
    torch.manual_seed(0)
    for parameter in model.visual.parameters():  # `build` leaves weights undrawn
        parameter.data.normal_(std=0.05)
    preprocessing = {"size": 160, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    encoder = Encoder("hybrid", model, lambda texts: None, model_cfg=cfg, preprocess_cfg=preprocessing)
    rows = FeatureEncoder(encoder).encode_images(pixels(160))
    maps = encoder.model.visual.trunk.patch_embed.backbone(pixels(160)).mean((2, 3))
    torch.testing.assert_close(rows[:, 32:], F.normalize(maps, dim=-1))


def test_texts_and_everything_else_are_the_encoders_own(fresh):
    encoder = fresh("vit")
    wide = FeatureEncoder(encoder)
    torch.testing.assert_close(wide.encode_texts(["a dog"]), encoder.encode_texts(["a dog"]))
    assert (wide.dim, wide.logit_scale, wide.fingerprint) == (encoder.dim, encoder.logit_scale, encoder.fingerprint)
    assert wide.encode_images([]).shape == (0, 32 + 64)


def test_boxes_are_classified_by_the_features_of_their_cuts_and_not_by_patches(fresh):
    wide, image = FeatureEncoder(fresh("vit")), Image.new("RGB", (32, 32), "red")
    assert encode_cuts(wide, []).shape == (0, 32 + 64)
    cuts = encode_cuts(wide, [(image, [(0, 0, 16, 16), (8, 8, 16, 24)])])
    torch.testing.assert_close(cuts, wide.encode_images([image.crop((0, 0, 16, 16)), image.crop((8, 8, 24, 32))]))
    task = Task("pets", classes=["cat", "dog"])
    made = stacked_linear(wide, task, wide.encode_images(pixels(count=4)), torch.tensor([0, 1, 0, 1]))
    assert made(cuts).shape == (2, 2)
    with pytest.raises(ModelError, match="stacked-linear-features reads features, which patches have none of"):
        made(pool_boxes(wide, image, [(0, 0, 16, 16)]))


def test_what_has_no_features_of_its_own_is_refused():
    with pytest.raises(ModelError, match="no features from a Linear image tower"):
        feature_tap(torch.nn.Linear(2, 2))
