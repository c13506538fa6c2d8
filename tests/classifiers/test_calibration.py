"""The temperature against a grid, and the threshold against counting."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retroclip.classifiers import zero_shot
from retroclip.classifiers.calibration import (
    CalibratedClassifier,
    fit_temperature,
    negative_log_likelihood,
    threshold_for,
)
from retroclip.evaluation.metrics import expected_calibration_error


@pytest.mark.parametrize("scale", [0.2, 1.0, 30.0])
def test_the_temperature_undoes_a_scale(scale):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 6, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    found = fit_temperature(scale * logits, labels)
    assert found == pytest.approx(scale, rel=0.04)
    grid = np.exp(np.linspace(-0.2, 0.2, 81))
    best = min(grid, key=lambda t: negative_log_likelihood(scale * logits / (found * t), labels))
    assert best == pytest.approx(1.0, abs=0.006)
    probabilities = (scale * logits / found).softmax(1).max(1)
    correct = (probabilities.indices == labels).numpy()
    assert expected_calibration_error(probabilities.values.numpy(), correct) < 0.02


def test_logits_that_know_nothing_become_flat():
    logits = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    wrong = (logits.argmax(1) + 1) % 3
    assert fit_temperature(logits, wrong) > 100


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30), st.sampled_from([0.0, 0.1, 0.3]))
def test_the_threshold_is_the_lowest_that_keeps_the_promise(rows, max_error):
    confidence = torch.tensor([value / 5 for value, _ in rows])
    correct = torch.tensor([right for _, right in rows])
    found = threshold_for(confidence, correct, max_error)

    def error(threshold):
        answered = confidence >= threshold
        return float((~correct[answered]).float().mean()) if answered.any() else 0.0

    assert error(found) <= max_error + 1e-6
    lower = [value for value in confidence.unique().tolist() if value < found]
    assert all(error(value) > max_error - 1e-6 for value in lower)


def test_the_answers_stay(encoder, task):
    plain = zero_shot(encoder, task)
    flat = CalibratedClassifier(plain, 10.0)
    images = torch.eye(8)
    assert torch.equal(flat(images).argmax(1), plain(images).argmax(1))
    torch.testing.assert_close(flat(images), plain(images) / 10)
