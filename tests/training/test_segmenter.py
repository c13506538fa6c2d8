"""MaskCLIP+: what the student is taught, and that it learns it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import retroclip
from retroclip.encoders.pyramid import ConvPyramid
from retroclip.errors import ModelError
from retroclip.tasks import Task
from retroclip.training.segmenter import pseudo_labels, train_segmenter

TASK = Task("halves", classes=["sky", "road", "tree"], novel=["tree"])


def test_labels_where_known_and_the_best_novel_class_elsewhere():
    scores = torch.tensor([5.0, 1.0, 2.0, 3.0])[:, None, None].expand(4, 2, 3)
    mask = np.array([[0, 1, 2], [255, 3, 0]])
    assert pseudo_labels(scores, mask, [2, 3]).tolist() == [[0, 1, 3], [3, 3, 0]]


def scene(i):
    """Blue above, grey below."""
    values = np.zeros((64, 64, 3), np.uint8)
    line = 16 + 8 * (i % 5)
    values[:line], values[line:] = (80, 120, 250), (90, 90, 90)
    mask = np.where(np.arange(64)[:, None] < line, 0, 1).repeat(64, axis=1)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue(), mask


@pytest.mark.parametrize("model", ["tiny", "builtin"])
def test_a_student_learns_labels(tiny_model, model):
    encoder = retroclip.load(tiny_model(0) if model == "tiny" else "builtin", precision="fp32")
    images, masks = zip(*(scene(i) for i in range(8)), strict=True)
    losses = []
    student = train_segmenter(
        encoder, TASK, images, masks, size=64, epochs=8, on_epoch=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.8 * losses[0]
    scores = student.segment(images[0])
    assert scores.shape == (3, 64, 64)
    if model == "builtin":
        assert (scores.argmax(0).numpy() == masks[0]).mean() > 0.7


def test_images_of_one_size_only(tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    image, mask = scene(0)
    small = Image.new("RGB", (64, 32))
    with pytest.raises(ModelError, match="one size"):
        train_segmenter(encoder, TASK, [image, small], [mask, mask[:32]], size=64, epochs=1)


def test_pyramids(tiny_model):
    pyramid = ConvPyramid(retroclip.load("builtin"))
    maps = pyramid(torch.zeros(1, 3, 96, 128))
    assert {name: tuple(m.shape[2:]) for name, m in maps.items()} == {"8": (12, 16), "16": (6, 8), "32": (3, 4)}
    with pytest.raises(ModelError, match="not convolutional"):
        ConvPyramid(retroclip.load(tiny_model(0)))
