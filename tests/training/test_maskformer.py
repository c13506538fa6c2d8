"""MaskFormer with a text classifier: its loss by hand, and that it learns a task that it can."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import retroclip
from retroclip.training.maskformer import NO_OBJECT_WEIGHT, WEIGHTS, MaskFormerStudent, train_maskformer
from retroclip.training.segmenter import SCALE

from .test_segmenter import TASK, mixed_scenes, scene


@pytest.fixture(scope="module")
def encoder():
    return retroclip.load("builtin", precision="fp32")


def test_it_learns_sky_and_road_and_gives_every_class_a_score(encoder):
    images, masks = zip(*(scene(i) for i in range(10)), strict=True)
    losses = []
    student = train_maskformer(
        encoder, TASK, images[:8], masks[:8], targets="base", size=64, epochs=60, batch=8, lr=2e-3,
        on_epoch=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.4 * losses[0]
    scores = student.segment(images[9])  # never seen
    assert scores.shape == (3, 64, 64) and bool(torch.isfinite(scores).all())
    assert (scores[:2].argmax(0).numpy() == masks[9]).mean() > 0.9


def test_a_tower_without_a_pyramid_gives_its_dense_map(tiny_model):
    tower = retroclip.load(tiny_model(0), precision="fp32")
    images, masks = zip(*(scene(i) for i in range(4)), strict=True)
    losses = []
    student = train_maskformer(
        tower, TASK, images, masks, size=64, epochs=60, batch=4, lr=5e-4, on_epoch=lambda _, loss: losses.append(loss)
    )
    maps = student.inputs(retroclip.pairs.decode_image(images[0]))
    assert [tuple(each.shape) for each in maps.values()] == [(1, 32, 8, 8), (1, 32, 4, 4)]
    assert losses[-1] < losses[0] and student.segment(images[0]).shape == (3, 64, 64)


def test_novel_pixels_are_never_looked_at(encoder):
    image, mask = scene(0)
    other = mask.copy()
    other[mask == 1] = 2  # the novel class in place of what follows
    void = mask.copy()
    void[mask == 1] = 255
    states = [
        train_maskformer(encoder, TASK, [image], [m], targets="base", size=64, epochs=1).state_dict()
        for m in (other, void)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_loss_is_maskformers_by_hand(encoder):
    torch.manual_seed(0)
    student = MaskFormerStudent(encoder, TASK, size=64, trained=[0, 1]).eval()
    image, _ = scene(0)
    inputs = student.inputs(retroclip.pairs.decode_image(image))
    with torch.no_grad():
        layers = student(inputs)
    height, width = layers[0][1].shape[-2:]
    target = torch.ones(1, height, width, dtype=torch.long)
    target[:, : height // 2], target[:, :, 0] = 0, 255
    ours = float(student.loss(inputs, target).detach())
    truth = [(target[0] == c).float().flatten().double() for c in (0, 1)]
    weights = F.normalize(student.texts, dim=1)[[0, 1, 3]].double()
    total = 0.0
    for embeddings, masks in layers:
        logits = SCALE * embeddings[0].double() @ weights.T
        flat = masks[0].flatten(1).double()
        costs, parts = np.zeros((len(flat), 2)), {}
        for q in range(len(flat)):
            for c in (0, 1):
                p = flat[q].sigmoid()
                cross = F.binary_cross_entropy_with_logits(flat[q], truth[c], reduction="none")
                right = torch.where(truth[c] == 1, p, 1 - p)
                focal = (torch.where(truth[c] == 1, 0.25, 0.75) * (1 - right) ** 2 * cross).mean().item()
                dice = float(1 - (2 * (p * truth[c]).sum() + 1) / (p.sum() + truth[c].sum() + 1))
                parts[q, c] = focal, dice
                costs[q, c] = 20 * focal + dice - float(logits[q].softmax(0)[c])
        # The best two queries, by trying all pairs of them.
        best = min(
            ((a, b) for a in range(len(flat)) for b in range(len(flat)) if a != b),
            key=lambda pair: costs[pair[0], 0] + costs[pair[1], 1],
        )
        called = torch.full((len(flat),), 2)
        for c, q in enumerate(best):
            called[q] = c
        weight = torch.tensor([1, 1, NO_OBJECT_WEIGHT], dtype=torch.float64)
        total += float(F.cross_entropy(logits, called, weight=weight))
        for c, q in enumerate(best):
            total += (WEIGHTS["loss_mask"] * parts[q, c][0] + WEIGHTS["loss_dice"] * parts[q, c][1]) / 2
    assert ours == pytest.approx(total / len(layers), rel=1e-4)


def test_an_image_without_a_label_teaches_that_there_is_nothing(encoder):
    student = MaskFormerStudent(encoder, TASK, size=64)
    inputs = student.inputs(retroclip.pairs.decode_image(scene(0)[0]))
    nothing = student.loss(inputs, torch.full((1, 64, 64), 255))
    logits = [SCALE * embeddings[0] @ student.texts.T for embeddings, _ in student.eval()(inputs)]
    expected = sum(F.cross_entropy(own, torch.full((len(own),), 3)) for own in logits) / len(logits)
    assert float(nothing.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_nothing_is_the_text_background(encoder):
    student = MaskFormerStudent(encoder, TASK, size=64)
    torch.testing.assert_close(student.texts[-1:], F.normalize(encoder.encode_texts(["background"]), dim=-1))
    assert len(student.texts) == 4 and sum(p.numel() for p in student.parameters()) < 3_000_000


def test_images_of_several_sizes_are_learnt_from(tiny_model):
    tower = retroclip.load(tiny_model(0), precision="fp32")  # patches and their means, an odd number of them
    images, masks = mixed_scenes(4)
    losses = []
    student = train_maskformer(
        tower, TASK, images, masks, size=56, epochs=3, batch=2, lr=5e-4, on_epoch=lambda _, loss: losses.append(loss)
    )
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert all(student.segment(image).shape == (3, *mask.shape) for image, mask in zip(images, masks, strict=True))
