"""An open-vocabulary Faster R-CNN: learns where coloured squares are, and names what it was never shown."""

import io
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import build_model_with_cfg, register_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import retroclip
from retroclip.encoders.loading import build
from retroclip.errors import ModelError, SourceError
from retroclip.pairs import decode_image
from retroclip.tasks import Task
from retroclip.training.detector import WIDTH, OpenVocabularyDetector, SimplePyramid, TextPredictor, train_detector

TASK = Task("things", classes=["dog", "cat"], novel=["cat"])


def scene(i):
    values = np.full((96, 128, 3), 200, np.uint8)
    x, y = 8 + 9 * (i % 6), 10 + 7 * (i % 5)
    values[y : y + 40, x : x + 44] = (160, 30, 20)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue(), np.array([[x, y, 44, 40], [2, 2, 4, 4]], float), np.array([0, 1])


def test_logits_are_cosines_with_texts_and_background():
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    predictor = TextPredictor(5, texts)
    x = torch.randn(2, 5)
    with torch.no_grad():
        logits, deltas = predictor(x)
    for row, features in zip(logits, x, strict=True):
        region = predictor.embed.weight @ features + predictor.embed.bias
        for value, weight in zip(row, [predictor.background, *texts], strict=True):
            assert float(value) == pytest.approx(20 * float(region @ weight / region.norm() / weight.norm()), abs=1e-4)
    assert logits.shape == (2, 4) and deltas.shape == (2, 16)
    assert torch.equal(deltas[:, :4], deltas[:, 4:8])
    assert predictor.background.requires_grad and not predictor.texts.requires_grad


def test_it_finds_what_it_was_shown():
    encoder = retroclip.load("builtin")
    images, boxes, labels = zip(*(scene(i) for i in range(10)), strict=True)
    losses = []
    detector = train_detector(
        encoder, TASK, images, boxes, labels, size=96, epochs=8, lr=1e-3, on_epoch=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    found, probabilities, objectness = detector.detect(images[0])
    assert (
        probabilities.shape == (len(found), 2) and (probabilities.sum(1) <= 1).all() and len(objectness) == len(found)
    )
    assert (found[:, :2] >= 0).all() and (found[:, 0] + found[:, 2] <= 128.001).all()
    best = found[probabilities[:, 0].argmax()]
    x, y, w, h = boxes[0][0]
    right, bottom = min(best[0] + best[2], x + w), min(best[1] + best[3], y + h)
    inside = max(0, right - max(best[0], x)) * max(0, bottom - max(best[1], y))
    assert inside / (best[2] * best[3] + w * h - inside) > 0.5


@register_model
def retroclip_detector_vit(pretrained=False, **kwargs):
    return tiny_trunk(VisionTransformer, kwargs, patch_size=14, embed_dim=32, depth=3, num_heads=2, img_size=56)


@register_model
def retroclip_detector_swin(pretrained=False, **kwargs):
    sizes = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 2, 4)}
    return tiny_trunk(SwinTransformer, kwargs, **sizes)


def tiny_trunk(kind, given, **sizes):
    own = {name: value for name, value in given.items() if not name.startswith("pretrained")}
    cfg = {"input_size": (3, sizes["img_size"], sizes["img_size"]), "num_classes": 0}
    return build_model_with_cfg(kind, "retroclip_detector", False, pretrained_cfg=cfg, **sizes, **own)


@pytest.fixture(scope="module")
def tiny_tower(tiny_model):
    """`tiny_tower(kind)`: an encoder with a random tower: open_clip's ViT (`clip`), a `vit` or `swin` of timm."""

    def make(kind):
        base = retroclip.load(tiny_model(0), precision="fp32")
        if kind == "clip":
            return base.copy()
        vision = {"timm_model_name": f"retroclip_detector_{kind}", "timm_pool": "avg", "timm_proj": "linear"}
        torch.manual_seed(0)
        cfg = base.model_cfg | {"custom_text": True, "vision_cfg": vision | {"image_size": 64}}
        return base.with_model(build(cfg, draw=True))

    return make


@pytest.mark.parametrize("kind", ["clip", "vit", "swin"])
def test_other_towers_learn_as_well_and_stay_as_they_are(tiny_tower, kind):
    encoder = tiny_tower(kind)
    before = deepcopy(encoder.model.state_dict())
    images, boxes, labels = zip(*(scene(i) for i in range(6)), strict=True)
    losses = []
    detector = train_detector(
        encoder, TASK, images, boxes, labels, size=96, epochs=6, lr=1e-3, batch=1,
        on_epoch=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.6 * losses[0]
    found, probabilities, _ = detector.detect(images[0])
    assert (found[:, :2] >= 0).all() and (found[:, 0] + found[:, 2] <= 128.001).all()
    assert probabilities.shape == (len(found), 2) and (probabilities > 0).all() and (probabilities.sum(1) <= 1).all()
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


@pytest.mark.parametrize(("kind", "level", "size"), [("clip", "8", (96, 128)), ("vit", "16", (128, 160))])
def test_a_map_of_patches_is_taken_for_one_at_a_power_of_two(tiny_tower, kind, level, size):
    image = decode_image(scene(0)[0])
    detector = OpenVocabularyDetector(tiny_tower(kind), torch.eye(1, 32), size=96)
    maps, frame, scale = detector.inputs(image)
    # Of 14 pixels: 96 x 128 in steps of 28 is 84 x 140, 6 x 10 patches, on which all strides have whole positions.
    expected = (96, 160) if kind == "vit" else size
    assert frame == expected and scale.tolist() == [frame[1] / 128, frame[0] / 96] * 2
    assert {name: each.shape[1:] for name, each in maps.items()} == {
        level: (32, frame[0] // int(level), frame[1] // int(level))
    }
    levels = detector.neck(maps)
    assert {name: tuple(each.shape[1:]) for name, each in levels.items()} == {
        name: (WIDTH, frame[0] // int(name), frame[1] // int(name)) for name in ("8", "16", "32")
    }


def test_the_boxes_learnt_are_where_the_network_sees_them(tiny_tower, monkeypatch):
    seen = []
    losses = OpenVocabularyDetector.losses

    def watched(self, maps, size, targets):
        seen.append((size, targets[0]["boxes"].tolist()))
        return losses(self, maps, size, targets)

    monkeypatch.setattr(OpenVocabularyDetector, "losses", watched)
    # The patches of 14 pixels make 96 x 160 of 96 x 128 pixels.
    image, whole = scene(0)[0], np.array([[0.0, 0.0, 128.0, 96.0]])
    train_detector(tiny_tower("vit"), TASK, [image], [whole], [np.array([0])], size=96, epochs=1)
    assert seen == [((96, 160), [[0.0, 0.0, 160.0, 96.0]])]


@pytest.mark.parametrize("stride", [8, 16, 32])
@torch.no_grad()
def test_a_simple_pyramid_keeps_things_in_their_place(stride):
    torch.manual_seed(0)
    neck = SimplePyramid(4, stride)
    one = torch.randn(1, 4, 128 // stride, 192 // stride)
    other = one.clone()
    top, left = 2 * stride * (64 // stride) // 2, 96 // stride * stride  # of the position changed, in pixels
    other[:, :, top // stride, left // stride] += 1
    for name, before in neck({str(stride): one}).items():
        wide = max(int(name), stride)  # of what changes, and beyond it the reach of a convolution over 3 x 3
        changed = (neck({str(stride): other})[name] != before).any(1)[0].nonzero() * int(name)
        for axis, start in enumerate((top, left)):
            first = start // wide * wide
            assert changed[:, axis].min() == first - int(name)
            assert changed[:, axis].max() == first + wide


def test_training_without_a_box_of_a_base_class_is_refused(tiny_tower):
    image, boxes, _ = scene(0)
    with pytest.raises(SourceError, match="no image to train on has a box of a class that task 'things' may learn"):
        train_detector(tiny_tower("vit"), TASK, [image], [boxes], [np.array([1, 1])], size=96, epochs=1)


def test_towers_without_maps_are_refused_before_anything_is_learnt(tiny_tower):
    encoder = tiny_tower("clip")
    encoder.model.visual = torch.nn.Identity()
    image, boxes, labels = scene(0)
    with pytest.raises(ModelError, match=r"no dense features from a Identity image tower; a detector can .*Swin"):
        train_detector(encoder, TASK, [image], [boxes], [labels])
