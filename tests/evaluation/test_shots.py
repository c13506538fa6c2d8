"""Shots come from a train split, and never from what is evaluated."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation import Samples, compare, load_samples
from retroclip.evaluation.comparison import method_names
from retroclip.evaluation.leakage import near_samples
from retroclip.evaluation.shots import draw_shots, left_out, take_shots, without_evaluated
from retroclip.methods import MethodContext, get_method, list_methods
from retroclip.pairs import ALIKE, LabelledSet, mirrored, thumbnail

from .conftest import CLASSES, draw, vector_image

PROBES = ["linear-probe"]


@pytest.fixture
def train():
    """200 more of the shapes, with nothing of the evaluation set."""
    vectors, labels = draw(200, noise=0.5, seed=7)
    images = [vector_image(v) for v in vectors]
    return LabelledSet("shapes", "train", [f"t{i}" for i in range(200)], images, [CLASSES[i] for i in labels])


def test_shots_are_so_many_of_each_class_and_depend_on_the_seed():
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 0, 2, 0])
    rows = draw_shots(labels, 2, 3, seed=1)
    assert torch.bincount(labels[rows]).tolist() == [2, 2, 2] and len(set(rows.tolist())) == 6
    assert torch.equal(rows, draw_shots(labels, 2, 3, seed=1))
    assert len({tuple(draw_shots(labels, 2, 3, seed=seed).tolist()) for seed in range(10)}) > 1
    assert torch.bincount(labels[draw_shots(labels, 3, 3)]).tolist() == [3, 2, 2]
    assert torch.equal(draw_shots(labels, None, 3), torch.arange(9))
    # What one class has doesn't change what is drawn of another.
    assert draw_shots(labels[:-1], 2, 3, seed=1)[2:].tolist() == rows[2:].tolist()


def test_evaluated_images_are_left_out_of_the_shots(task, dataset, train):
    train.images[5] = dataset.images[3]
    left = without_evaluated(load_samples(task, train), [load_samples(task, dataset)])
    assert len(left) == 199 and left.rejected == ["t5: is also an evaluated image"]
    with pytest.raises(SourceError, match="take the shots from another split"):
        without_evaluated(load_samples(task, dataset), [load_samples(task, dataset)])


def grey(values):
    """A picture of 32 × 32 grey values, as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(values[..., None], 3, axis=2)).save(buffer, "PNG")
    return buffer.getvalue()


class Averages:
    """Embeds a picture as the mean grey of its four quarters, and counts what it embeds."""

    def __init__(self):
        self.count = 0

    def encode_images(self, images, **_):
        self.count += len(images)
        pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), float).reshape(2, 16, 2, 16) for data in images]
        return torch.nn.functional.normalize(torch.tensor(np.array([p.mean((1, 3)).ravel() for p in pixels])), dim=1)


def test_near_duplicates_leave_the_pool_and_are_counted():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 8), dtype=np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(6)]
    brighter = np.clip(pictures[0].astype(int) + 5, 0, 255).astype(np.uint8)
    # An evaluated picture, a brighter one of it, its mirror image; like it by thumbnail alone; two others.
    far = (pictures[0] * 0.2).astype(np.uint8) * np.repeat([0, 1], 16).astype(np.uint8)
    pool = [pictures[0], brighter, pictures[1][:, ::-1], far, pictures[4], pictures[5]]
    named = [f"t{i}" for i in range(6)]
    train = Samples("p", "train", named, [grey(p) for p in pool], np.zeros(6, int), ["a"])
    evaluated = Samples("p", "val", ["a", "b"], [grey(p) for p in pictures[:2]], np.zeros(2, int), ["a"])
    encoder = Averages()
    left = without_evaluated(train, [evaluated], encoder, threshold=0.95)
    assert left.keys == ["t3", "t4", "t5"]
    assert left.rejected == [
        "t0: is also an evaluated image", "t1: is nearly an evaluated image", "t2: is nearly an evaluated image"
    ]  # fmt: skip
    assert left_out(left) == {"train_also_evaluated": 1, "train_near_duplicates": 2}
    assert encoder.count <= 3 + 2  # only what is alike is embedded
    # By brute force over all pairs: the cosine and the thumbnails, mirrored or not.
    again = Samples("p", "train", named[1:], [grey(p) for p in pool[1:]], np.zeros(5, int), ["a"])
    cosines = Averages().encode_images(again.images) @ Averages().encode_images(evaluated.images).T
    theirs = [thumbnail(image) for image in evaluated.images]
    alike = np.array([[max(own @ e, own @ mirrored(e)) for e in theirs] for own in map(thumbnail, again.images)])
    both = ((cosines.numpy() > 0.95) & (alike > ALIKE)).any(axis=1)
    assert near_samples(again, [evaluated], Averages(), threshold=0.95) == np.flatnonzero(both).tolist() == [0, 1]


def test_unreadable_shots_are_left_out(task, dataset, train):
    train.images[9] = b"no image"
    assert len(without_evaluated(load_samples(task, train), [load_samples(task, dataset)])) == 199


def test_unreadable_evaluated_images_are_left_out_too(encoder, task, dataset, train):
    """The shots are held against what is evaluated before anything else has read that."""
    dataset.images[4] = b"no image"
    zero, probe = compare(encoder, task, dataset, None, methods=PROBES, train=train, shots=8, seeds=[0], resamples=0)
    assert (zero.n, probe.n) == (len(dataset.images) - 1,) * 2
    assert len(zero.rejected) == 1 and zero.rejected[0].startswith(dataset.keys[4])


def test_a_class_without_shots_is_named(task, train):
    kept = [i for i, label in enumerate(train.labels) if label != "star"]
    less = LabelledSet("shapes", "train", *([column[i] for i in kept] for column in (train.keys, train.images)))
    less.labels = [train.labels[i] for i in kept]
    with pytest.raises(SourceError, match="no image to learn 1 of the 4 classes from, such as 'star'"):
        take_shots(load_samples(task, less), 4)


def test_probes_in_a_comparison(encoder, task, dataset, train, tmp_path):
    given = {"methods": PROBES, "train": train, "shots": 8, "resamples": 50, "cache": tmp_path}
    zero, probe = compare(encoder, task, dataset, None, **given)
    assert zero.method == "zero-shot" and not zero.options
    assert (probe.seeds, probe.error) == ([0, 1, 2], None) and probe.value > 0.5 and probe.sd is not None
    assert probe.options["train"] == "shapes#train" and probe.options["shots"] == 8
    assert probe.options["train_also_evaluated"] == 0 and "train_near_duplicates" in probe.options
    assert len(probe.options["chosen"]) == 3 and probe.gain is not None
    again = compare(encoder, task, dataset, None, **given)
    assert again[1].value == probe.value and again[1].options == probe.options
    full = compare(encoder, task, dataset, None, methods=PROBES, train=train, seeds=[0], resamples=20)[1]
    assert full.options["shots"] == "full" and full.value >= probe.value - 0.1


def test_patterns_match_methods_that_learn_only_where_they_can(encoder, task, dataset, train):
    assert [row.method for row in compare(encoder, task, dataset, None, methods=["linear-*"], resamples=0)] == [
        "zero-shot"
    ]
    assert method_names(["linear-*"], learn=True) == ["zero-shot", *(name for name in list_methods("linear-*"))]
    assert method_names(["linear-probe"]) == ["zero-shot", "linear-probe"]


def test_methods_that_learn_need_something_to_learn_from(encoder, task):
    with pytest.raises(RetroclipError, match="learns from labelled images: name them with --train"):
        get_method("linear-probe")(MethodContext(encoder, None, task))
