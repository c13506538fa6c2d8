"""Linear probes: folds, the choice of C, starts and priors, and the SGD recipe against plain steps."""

import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from retroclip.classifiers import linear_probe, sgd_probe, zero_shot
from retroclip.classifiers.probe import FEATURE_NORM, choose_c, fold_of, sgd_head
from retroclip.errors import RetroclipError


@pytest.fixture
def learnable():
    """300 unit-norm features of dimension 8 in three classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    rows = torch.eye(8)[labels] + 0.5 * torch.randn(300, 8, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), labels


def test_folds_spread_each_class_evenly(learnable):
    _, labels = learnable
    folds = fold_of(labels, 5, seed=3)
    for label in range(3):
        sizes = torch.bincount(folds[labels == label], minlength=5)
        assert int(sizes.max() - sizes.min()) <= 1
    peer = StratifiedKFold(5).split(labels, labels)
    assert sorted(len(held) for _, held in peer) == pytest.approx(sorted(torch.bincount(folds).tolist()), abs=3)
    assert not torch.equal(folds, fold_of(labels, 5, seed=4))


def test_c_is_chosen_inside_the_shots(learnable):
    features, labels = learnable
    c, scores = choose_c(features, labels, 3)
    assert scores[c] == max(scores.values()) > 0.7
    assert choose_c(torch.eye(3), torch.arange(3), 3) == (100.0, {})
    noise = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(1))
    assert choose_c(features, noise, 3)[0] < c


def test_priors_and_starts(encoder, task, learnable):
    shots = encoder.encode_images(torch.eye(len(task.classes), encoder.dim))
    labels = torch.arange(len(task.classes))
    texts = zero_shot(encoder, task)
    near = linear_probe(encoder, task, shots, labels, prior="text", c=1e-6)
    torch.testing.assert_close(near.weights, encoder.logit_scale * texts.weights, atol=1e-2, rtol=1e-3)
    start = sgd_probe(encoder, task, shots[None], labels, init="text", epochs=0)
    torch.testing.assert_close(start(shots), texts(shots))
    assert not torch.allclose(sgd_probe(encoder, task, shots[None], labels, epochs=0)(shots), texts(shots))
    with pytest.raises(RetroclipError, match="zero or text"):
        linear_probe(encoder, task, shots, labels, prior="image")
    with pytest.raises(RetroclipError, match="one of random, text"):
        sgd_probe(encoder, task, shots[None], labels, init="zero")


def test_probes_learn(encoder, task):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(task.classes)).repeat(30)
    turned = torch.eye(encoder.dim)[torch.randperm(encoder.dim, generator=generator)]
    noise = 0.3 * torch.randn(len(labels), encoder.dim, generator=generator)
    shots = torch.nn.functional.normalize(turned[labels] + noise, dim=1)
    for probe in (
        linear_probe(encoder, task, shots, labels),
        linear_probe(encoder, task, shots, labels, prior="text"),
        sgd_probe(encoder, task, shots[None], labels),
        sgd_probe(encoder, task, shots[None], labels, init="text"),
    ):
        assert (probe(turned[: len(task.classes)]).argmax(1) == torch.arange(len(task.classes))).all(), probe.name
        assert probe.trained_parameters == len(task.classes) * (encoder.dim + 1)


def test_one_epoch_of_sgd_is_plain_steps(learnable):
    features, labels = learnable
    features = FEATURE_NORM * features[:64]
    start = torch.zeros(3, 8)
    weights, bias, losses = sgd_head(features[None], labels[:64], start, epochs=1, batch_size=64, lr=0.1)
    shares = (torch.ones(64, 3) / 3 - torch.eye(3)[labels[:64]]) / 64
    torch.testing.assert_close(weights, -0.1 * shares.T @ features)
    torch.testing.assert_close(bias, -0.1 * shares.sum(0))
    assert losses == [pytest.approx(float(torch.tensor(3.0).log()))]
