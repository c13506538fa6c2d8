"""MaskCLIP+: what the student is taught, and that it learns it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import retroclip
from retroclip.encoders import Encoder
from retroclip.encoders.loading import build
from retroclip.encoders.pyramid import ConvPyramid
from retroclip.errors import ModelError, SourceError, TaskError
from retroclip.tasks import Task
from retroclip.training.maskformer import train_maskformer
from retroclip.training.segmenter import on_grid, pseudo_labels, segmentation_examples, train_segmenter, window

TASK = Task("halves", classes=["sky", "road", "tree"], novel=["tree"])


def test_labels_where_known_and_the_best_novel_class_in_place_of_novel_ones():
    scores = torch.tensor([5.0, 1.0, 2.0, 3.0])[:, None, None].expand(4, 2, 3)
    mask = np.array([[0, 1, 2], [255, 3, 0]])
    assert pseudo_labels(scores, mask, [2, 3]).tolist() == [[0, 1, 3], [255, 3, 0]]
    swapped = np.array([[0, 1, 3], [255, 2, 0]])  # which novel class it is leaves no trace
    assert torch.equal(pseudo_labels(scores, swapped, [2, 3]), pseudo_labels(scores, mask, [2, 3]))


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


def test_more_classes_than_targets_can_name_are_refused():
    """Indices above 254 had been others' or none's."""
    many = Task("many", classes=[f"class {i}" for i in range(256)])
    with pytest.raises(TaskError, match="'many' has 256 classes: a student learns at most 255"):
        segmentation_examples(lambda image: {}, None, many, [], [], size=64)


def test_students_are_built_on_the_stages_of_a_tower(tiny_model):
    base = retroclip.load(tiny_model(0), precision="fp32")
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"}
    cfg = base.model_cfg | {"vision_cfg": vision}
    torch.manual_seed(0)
    encoder = Encoder("a", build(cfg, draw=True), base.tokenizer, model_cfg=cfg, preprocess_cfg=base.preprocess_cfg)
    images, masks = zip(*(scene(i) for i in range(2)), strict=True)
    channels = {16: 80, 8: 160, 4: 320}  # of maps by their side: strides 8, 16 and 32
    for train in (train_segmenter, train_maskformer):
        student = train(encoder, TASK, images, masks, size=128, epochs=1)
        found = student.inputs(retroclip.pairs.decode_image(images[0]))
        assert len(found) > 1 and all(channels[each.shape[3]] == each.shape[1] for each in found.values())
        assert student.segment(images[0]).shape == (3, 64, 64)


def mixed_scenes(count):
    """Scenes of four sizes and shapes: as they are, cut, and enlarged."""
    images, masks = [], []
    for i in range(count):
        image, mask = Image.open(io.BytesIO(scene(i)[0])), scene(i)[1]
        width, height = [(64, 64), (96, 64), (64, 96), (128, 192)][i % 4]
        images.append(image.resize((width, height), Image.Resampling.NEAREST))
        masks.append(
            np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
        )
    return images, masks


def test_images_of_several_sizes_are_learnt_from_and_segmented_at_their_own():
    encoder = retroclip.load("builtin", precision="fp32")
    images, masks = mixed_scenes(8)
    losses = []
    student = train_segmenter(
        encoder, TASK, images, masks, size=64, epochs=8, on_epoch=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.8 * losses[0]
    for image, mask in zip(images[:4], masks, strict=False):
        scores = student.segment(image)
        assert scores.shape == (3, *mask.shape)
        assert (scores.argmax(0).numpy() == mask).mean() > 0.7


def coordinates(height, width, pixels):
    """A map (1, 2, h, w) whose values are the middle of each position in pixels."""
    rows, columns = (torch.arange(n) * pixels + (pixels - 1) / 2 for n in (height, width))
    return torch.stack([rows[:, None].expand(-1, width), columns.expand(height, -1)])[None]


@pytest.mark.parametrize(
    "shapes",
    [
        {"low": (8, 12, 8), "high": (2, 3, 32)},  # strides 8 and 32
        {"0": (20, 8, 8), "1": (10, 4, 16), "2": (5, 2, 32)},
        {"0": (7, 10, 16), "1": (4, 5, 32)},  # a ViT's patches, and their means with one over
        {"0": (9, 7, 16), "1": (5, 4, 32)},
        {"pixels": (64, 75, 1)},
    ],
)
def test_a_window_shows_the_same_part_of_every_map_and_of_the_target(shapes):
    maps = {name: coordinates(*shape) for name, shape in shapes.items()}
    height, width, pixels = next(iter(shapes.values()))
    target = torch.stack(torch.meshgrid(torch.arange(height * pixels), torch.arange(width * pixels), indexing="ij"))
    sides, generator = {name: min(shape[:2]) for name, shape in shapes.items()}, torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(20):
        cut, own = window(maps, target, sides, generator)
        assert own.shape[-2:] == (min(height, width) * pixels,) * 2
        starts.add(tuple(own[:, 0, 0].tolist()))
        for name, each in cut.items():
            size = shapes[name][2]
            assert each.shape == (1, 2, sides[name], sides[name])
            torch.testing.assert_close(each[0, :, 0, 0], own[:, 0, 0] + (size - 1) / 2)
    assert len(starts) > 1


def test_targets_on_a_grid_keep_their_place():
    target = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 1], [2, 2, 2, 2]], dtype=torch.uint8)
    grown = on_grid(target, torch.zeros(1, 1, 3, 4), 12)
    assert torch.equal(grown, target.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert torch.equal(on_grid(grown, torch.zeros(1, 1, 3, 4), 3), target)


def test_images_of_one_size_go_in_whole(tiny_model, monkeypatch):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    monkeypatch.setattr("retroclip.training.segmenter.window", None)
    images, masks = mixed_scenes(4)
    doubled = [image.resize((2 * image.width, 2 * image.height)) for image in images]
    tall = [masks[i].repeat(2, 0).repeat(2, 1) for i in (1, 1)]
    train_segmenter(encoder, TASK, [doubled[1]] * 2, tall, size=64, epochs=1)
    # Several sizes of one shape: the tower sees the same of them.
    train_segmenter(encoder, TASK, [images[1], doubled[1]], [masks[1], tall[0]], size=64, epochs=1)
    with pytest.raises(TypeError):
        train_segmenter(encoder, TASK, images, masks, size=64, epochs=1)


def test_batches_without_a_labelled_pixel_leave_the_student_sound():
    encoder = retroclip.load("builtin", precision="fp32")
    images, masks = zip(*(scene(i) for i in range(3)), strict=True)
    void = np.full((64, 64), 255)
    plain = Task("plain", classes=["sky", "road"])
    student = train_segmenter(encoder, plain, images, [masks[0], void, void], size=64, epochs=2, batch=1)
    assert all(bool(torch.isfinite(each).all()) for each in student.state_dict().values())
    with pytest.raises(SourceError, match="no mask to train on has a pixel"):
        train_segmenter(encoder, plain, images, [void] * 3, size=64, epochs=1)
    with pytest.raises(SourceError, match="task 'halves' may learn"):
        train_maskformer(encoder, TASK, images, [np.full((64, 64), 2)] * 3, targets="base", size=64, epochs=1)


def test_pyramids(tiny_model):
    pyramid = ConvPyramid(retroclip.load("builtin"))
    maps = pyramid(torch.zeros(1, 3, 96, 128))
    assert {name: tuple(m.shape[2:]) for name, m in maps.items()} == {"8": (12, 16), "16": (6, 8), "32": (3, 4)}
    with pytest.raises(ModelError, match="not convolutional"):
        ConvPyramid(retroclip.load(tiny_model(0)))
