"""The modules that are exported give the logits of the classifiers that they were made from."""

import pytest
import torch
import torch.nn.functional as F

from retroclip.classifiers import CalibratedClassifier, LinearClassifier, as_module, stacked_linear, zero_shot
from retroclip.errors import ModelError

LABELS = torch.tensor([0, 1, 2] * 12)


@pytest.mark.parametrize("bias", [None, torch.tensor([0.5, -1.0, 0.0])])
def test_a_linear_classifier(encoder, task, make_images, bias):
    head = zero_shot(encoder, task)
    made = LinearClassifier("linear", encoder, head.classes, head.weights, scale=3.0, bias=bias)
    queries = make_images([0, 1, 2])
    torch.testing.assert_close(as_module(made)(queries), made(queries))


@pytest.mark.parametrize("pairs", [1, 6, 36])
@pytest.mark.parametrize("sharpness", [0.0, 0.7])
def test_a_stacked_classifier_and_the_pairs_that_it_has_seen(encoder, task, make_images, pairs, sharpness):
    rows, queries = make_images(LABELS.tolist()), make_images([0, 1, 2] * 5, seed=4)
    made = stacked_linear(encoder, task, rows[:pairs], LABELS[:pairs], sharpness=sharpness)
    made.trained.weights = torch.randn(made.trained.weights.shape, generator=torch.Generator().manual_seed(0))
    module = as_module(made)
    torch.testing.assert_close(module(queries), made(queries))
    assert "known" in dict(module.named_buffers()) or not sharpness
    other = F.normalize(-queries, dim=1)
    torch.testing.assert_close(module(other), made(other))


def test_a_stacked_classifier_on_features(encoder, task, make_images):
    features = torch.eye(5)[LABELS] + 0.3 * torch.randn(36, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([make_images(LABELS.tolist()), features], dim=1)
    made = stacked_linear(encoder, task, rows, LABELS)
    torch.testing.assert_close(as_module(made)(rows[:5]), made(rows[:5]))


def test_a_classifier_that_is_not_known_is_refused(encoder, task):
    with pytest.raises(ModelError, match="zero-shot can't be exported: choose zero-shot, primed"):
        as_module(CalibratedClassifier(zero_shot(encoder, task), 2.0))
