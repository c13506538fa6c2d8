"""L-BFGS against scikit-learn's solver, and the sweep against a loop."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from retroclip.classifiers.logistic import LogisticProblem, regularisation_sweep, sweep


@pytest.fixture
def blobs():
    """Unit-norm features that lie near one direction, as those of CLIP-like models do, in five classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 24, generator=generator)
    labels = torch.randint(0, 5, (600,), generator=generator)
    rows = 4 * torch.ones(24) + 0.5 * centres[labels] + torch.randn(600, 24, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), labels


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2, 1e4])
def test_the_optimum_is_scikit_learns(blobs, c):
    features, labels = blobs
    weights, bias = LogisticProblem(features, labels, 5).fit(c, tol=1e-6)
    peer = LogisticRegression(C=c, max_iter=10_000, tol=1e-8).fit(features.double().numpy(), labels.numpy())
    ours = (features @ weights.T + bias).softmax(dim=1).numpy()
    assert np.abs(ours - peer.predict_proba(features.double().numpy())).max() < 2e-3


def test_the_default_tolerance_ends_at_the_optimum_of_a_weakly_regularised_fit():
    c, n, classes, generator = 1e4, 1200, 40, torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (n,), generator=generator)
    rows = 0.5 * torch.randn(classes, 48, generator=generator)[labels] + torch.randn(n, 48, generator=generator)
    rows = rows * torch.arange(1, 49).float().pow(-0.5) + torch.eye(48)[0] * 8
    features = torch.nn.functional.normalize(rows, dim=1)

    def objective(weights, bias):
        losses = torch.nn.functional.cross_entropy(features.double() @ weights.double().T + bias.double(), labels)
        return float(losses + weights.double().square().sum() / (2 * c * n))

    problem = LogisticProblem(features, labels, classes)
    optimum = objective(*problem.fit(c, tol=1e-7))  # scikit-learn's, by the test above
    assert objective(*problem.fit(c)) < 1.001 * optimum < objective(*problem.fit(c, tol=1e-4))


def test_a_start_changes_nothing_and_strong_regularisation_gives_the_prior(blobs):
    features, labels = blobs
    problem = LogisticProblem(features, labels, 5)
    cold = problem.fit(1.0, tol=1e-6)
    warm = problem.fit(1.0, start=problem.fit(1e3), tol=1e-6)
    torch.testing.assert_close(warm[0] - warm[0].mean(0), cold[0] - cold[0].mean(0), atol=2e-3, rtol=0)
    prior = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    kept, _ = LogisticProblem(features, labels, 5, prior=prior).fit(1e-9)
    torch.testing.assert_close(kept, prior, atol=1e-3, rtol=0)


def test_a_class_without_samples_is_never_the_answer(blobs):
    features, labels = blobs
    weights, bias = LogisticProblem(features, labels, 6).fit(10.0)
    assert weights.shape == (6, 24) and int((features @ weights.T + bias).argmax(dim=1).max()) == 4


@pytest.mark.parametrize("peak", [-6.0, -1.3, 0.0, 2.8, 6.0])
def test_the_sweep_ends_within_an_eighth_of_a_decade(peak):
    best, scores = sweep(lambda c: -abs(np.log10(c) - peak))
    assert abs(np.log10(best) - peak) <= 1 / 8 and len(scores) <= 7 + 2 * 4


def test_ties_go_to_the_stronger_regularisation():
    assert sweep(lambda c: 1.0, coarse=(1e-2, 1.0, 1e2), steps_a_decade=1)[0] == pytest.approx(1e-3)


def test_the_sweep_over_c_finds_what_a_loop_finds(blobs):
    features, labels = blobs
    train, held = slice(0, 300), slice(300, 600)
    best, scores = regularisation_sweep(features[train], labels[train], (features[held], labels[held]), 5)
    for c in (1e-4, 1.0, 1e4):
        peer = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(features[train].numpy(), labels[train].numpy())
        assert scores[c] == pytest.approx(peer.score(features[held].numpy(), labels[held].numpy()), abs=0.014)
    assert scores[best] == max(scores.values())
