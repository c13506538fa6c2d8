"""An open-vocabulary Faster R-CNN: learns where coloured squares are, and names what it was never shown."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import retroclip
from retroclip.errors import ModelError
from retroclip.tasks import Task
from retroclip.training.detector import TextPredictor, train_detector

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


def test_towers_without_a_pyramid_are_refused(tiny_model):
    image, boxes, labels = scene(0)
    with pytest.raises(ModelError, match="not convolutional"):
        train_detector(retroclip.load(tiny_model(0)), TASK, [image], [boxes], [labels])
