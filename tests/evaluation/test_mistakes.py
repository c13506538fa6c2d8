"""Confusions: counted as scikit-learn's matrix does, the largest first, and the worst classes among them."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from retroclip.evaluation import Outcome, compare, load_results, save_results
from retroclip.evaluation.mistakes import class_counts, count_answers, count_matrix, largest_confusions

NAMES = [*"abcdefg"]


def an_outcome(labels, predicted, classes=7):
    labels, predicted = np.array(labels), np.array(predicted)
    return Outcome(labels, predicted, labels == predicted, np.full(len(labels), 0.5), classes)


def test_counts_are_the_mean_of_the_seeds_confusion_matrices():
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=300)  # the last class has no sample
    seeds = [an_outcome(labels, rng.integers(7, size=300)) for _ in range(3)]
    truth, called, counts = count_answers(seeds)
    ours = np.zeros((7, 7))
    ours[truth, called] = counts
    peer = np.mean([confusion_matrix(o.labels, o.predicted, labels=range(7)) for o in seeds], axis=0)
    np.testing.assert_allclose(ours, peer)
    again = np.zeros((7, 7))
    truth, called, counts = count_matrix(confusion_matrix(labels, seeds[0].predicted, labels=range(7)))
    again[truth, called] = counts
    np.testing.assert_array_equal(again, confusion_matrix(labels, seeds[0].predicted, labels=range(7)))
    assert class_counts((truth, called, counts), NAMES) == {
        name: float((labels == i).sum()) for i, name in enumerate(NAMES[:-1])
    }


def test_the_largest_come_first_and_the_worst_class_has_its_own():
    #         a: 10, 3 as b    b: 4, 4 as a     c: 2, 1 as d, 1 as a     d: all right
    labels = [0] * 10 + [1] * 4 + [2] * 2 + [3] * 5
    predicted = [0] * 7 + [1] * 3 + [0] * 4 + [3, 0] + [3] * 5
    counted = count_answers([an_outcome(labels, predicted)])
    found = largest_confusions(counted, NAMES, most=1, worst=0)
    assert [(c.truth, c.predicted, c.count, c.of) for c in found] == [("b", "a", 4, 4)]
    # b and c are never right; of c's two equal mistakes the class that comes first.
    found = largest_confusions(counted, NAMES, most=2, worst=2)
    assert [(c.truth, c.predicted) for c in found] == [("b", "a"), ("a", "b"), ("c", "a")]
    assert largest_confusions(count_answers([an_outcome([0, 1], [0, 1])]), NAMES) == []


def test_several_classes_an_image_are_not_confused():
    marks = np.array([[True, True], [False, True]])
    outcome = Outcome(marks, np.array([0, 0]), np.array([True, False]), np.ones(2), 2)
    assert len(count_answers([outcome])[0]) == 0


@pytest.fixture
def results(encoder, task, dataset, memory):
    return compare(encoder, task, dataset, memory, methods=["mean-neighbours"], resamples=0)


def test_results_carry_them_through_a_file(results, tmp_path):
    for result in results:
        wrong = sum(c.count for c in result.confusions)
        assert wrong == pytest.approx((1 - result.top1) * result.n)
        assert sum(result.class_counts.values()) == result.n
    save_results(results, tmp_path / "r.json")
    assert load_results(tmp_path / "r.json")[1].confusions == results[1].confusions


def test_without_resamples_there_are_gains_and_no_intervals(results):
    assert results[1].gain is not None and results[1].gain_interval is None and results[1].interval is None
    assert results[1].gain == pytest.approx(100 * (results[1].value - results[0].value))
