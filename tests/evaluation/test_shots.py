"""Shots come from a train split, and never from what is evaluated."""

import pytest
import torch

from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation import compare, load_samples
from retroclip.evaluation.comparison import method_names
from retroclip.evaluation.shots import draw_shots, take_shots, without_evaluated
from retroclip.methods import MethodContext, get_method, list_methods
from retroclip.pairs import LabelledSet

from .conftest import CLASSES, draw, vector_image

PROBES = ["linear-probe", "linear-probe-text"]


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


def test_unreadable_shots_are_left_out(task, dataset, train):
    train.images[9] = b"no image"
    assert len(without_evaluated(load_samples(task, train), [load_samples(task, dataset)])) == 199


def test_a_class_without_shots_is_named(task, train):
    kept = [i for i, label in enumerate(train.labels) if label != "star"]
    less = LabelledSet("shapes", "train", *([column[i] for i in kept] for column in (train.keys, train.images)))
    less.labels = [train.labels[i] for i in kept]
    with pytest.raises(SourceError, match="no image to learn 1 of the 4 classes from, such as 'star'"):
        take_shots(load_samples(task, less), 4)


def test_probes_in_a_comparison(encoder, task, dataset, train, tmp_path):
    given = {"methods": PROBES, "train": train, "shots": 8, "resamples": 50, "cache": tmp_path}
    zero, probe, _ = compare(encoder, task, dataset, None, **given)
    assert zero.method == "zero-shot" and not zero.options
    assert (probe.seeds, probe.error) == ([0, 1, 2], None) and probe.value > 0.5 and probe.sd is not None
    assert probe.options["train"] == "shapes#train" and probe.options["shots"] == 8
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
