"""Each metric against an independent form: a loop, scikit-learn, torchmetrics."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from retroclip.evaluation import metrics


@pytest.fixture
def scores_and_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(7, size=200)
    scores = rng.normal(size=(200, 7)).astype(np.float32)
    scores[np.arange(200), labels] += 1
    return scores, labels


def test_top1_and_top5_equal_a_loop(scores_and_labels):
    scores, labels = scores_and_labels
    ranked = [list(np.argsort(-row, kind="stable")) for row in scores]
    assert metrics.top1(scores, labels) == np.mean([r[0] == c for r, c in zip(ranked, labels, strict=True)])
    assert metrics.top5(scores, labels) == np.mean([c in r[:5] for r, c in zip(ranked, labels, strict=True)])


def test_ties_go_to_the_earlier_class_as_in_argmax():
    scores = np.zeros((3, 6))
    assert metrics.topk_correct(scores, np.array([0, 1, 5]), 1).tolist() == [True, False, False]
    assert metrics.topk_correct(scores, np.array([0, 4, 5]), 5).tolist() == [True, True, False]


def test_mean_per_class_equals_balanced_accuracy_and_skips_absent_classes(scores_and_labels):
    scores, labels = scores_and_labels
    present = labels != 3
    value = metrics.mean_per_class(scores[present], labels[present])
    predicted = scores[present].argmax(1)
    by_hand = [np.mean(predicted[labels[present] == c] == c) for c in (0, 1, 2, 4, 5, 6)]
    assert value == pytest.approx(np.mean(by_hand))
    assert metrics.mean_per_class(scores, labels) == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))


def eleven_points_by_loop(scores, positive):
    """VOC2007's definition with no ties, in plain Python."""
    ranked = sorted(zip(scores, positive, strict=True), reverse=True)
    total, hits, curve = sum(positive), 0, []
    for seen, (_, is_positive) in enumerate(ranked, start=1):
        hits += bool(is_positive)
        curve.append((hits / total, hits / seen))
    points = []
    for tenth in range(11):
        points.append(max((p for r, p in curve if r * 10 >= tenth - 1e-6), default=0.0))
    return sum(points) / 11


def test_eleven_point_precision_equals_its_definition():
    rng = np.random.default_rng(1)
    for positives in (1, 3, 10):
        positive = np.zeros(40, dtype=bool)
        positive[rng.choice(40, positives, replace=False)] = True
        scores = rng.normal(size=40)
        assert metrics.average_precision_11(scores, positive) == pytest.approx(eleven_points_by_loop(scores, positive))


def test_eleven_point_precision_of_ties_does_not_depend_on_order():
    positive = np.array([True, False, False, False])
    assert metrics.average_precision_11(np.zeros(4), positive) == pytest.approx(0.25)
    assert metrics.average_precision_11(np.zeros(4), positive[::-1]) == pytest.approx(0.25)


def test_map11_takes_indices_or_several_labels(scores_and_labels):
    scores, labels = scores_and_labels
    one_hot = np.eye(7)[labels]
    assert metrics.map11(scores, labels) == pytest.approx(metrics.map11(scores, one_hot))
    expected = np.mean([eleven_points_by_loop(scores[:, c], one_hot[:, c]) for c in range(7)])
    assert metrics.map11(scores, labels) == pytest.approx(expected)


def test_roc_auc_equals_scikit_learn(scores_and_labels):
    scores, labels = scores_and_labels
    probabilities = metrics.softmax(scores)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert metrics.roc_auc(probabilities, labels) == pytest.approx(expected)
    two = scores[:, :2]
    binary = (labels > 3).astype(int)
    by_pairs = np.mean(
        [
            np.sign(p - q) / 2 + 0.5
            for p in (two[:, 1] - two[:, 0])[binary == 1]
            for q in (two[:, 1] - two[:, 0])[binary == 0]
        ]
    )
    assert metrics.roc_auc(two, binary) == pytest.approx(by_pairs)
    assert np.isnan(metrics.roc_auc(two, np.ones(200, dtype=int)))


def test_calibration_error_equals_torchmetrics(scores_and_labels):
    scores, labels = scores_and_labels
    probabilities = metrics.softmax(scores)
    expected = reference.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=7, n_bins=15
    )
    ours = metrics.expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == labels)
    assert ours == pytest.approx(float(expected), abs=1e-6)


def test_softmax_survives_large_logits():
    assert metrics.softmax(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=25))
def test_average_precision_equals_scikit_learns_with_ties_too(rows):
    scores, positive = np.array([float(score) for score, _ in rows]), np.array([mark for _, mark in rows])
    ours = metrics.average_precision(scores, positive)
    if not positive.any():
        assert np.isnan(ours)
        return
    assert ours == pytest.approx(average_precision_score(positive, scores))
    assert 0 < ours <= 1 and metrics.average_precision_11(scores, positive) >= ours - 1 / 11


def test_mean_average_precision_of_several_labels():
    rng = np.random.default_rng(2)
    scores, marks = rng.normal(size=(50, 4)), rng.random((50, 4)) < 0.3
    marks[:, 3] = False
    expected = average_precision_score(marks[:, :3], scores[:, :3], average="macro")
    assert metrics.mean_average_precision(scores, marks) == pytest.approx(expected)
    assert np.isnan(metrics.precision_per_class(scores, marks)[3])
