"""Bootstrap: resampled metrics against explicit resampling, intervals against the normal approximation."""

import numpy as np
import pytest

from retroclip.evaluation import Outcome, bootstrap_interval, metrics, paired_gain
from retroclip.evaluation.bootstrap import resample_counts


def an_outcome(seed, n=150, k=5, strength=1.0, labels_seed=7):
    labels = np.random.default_rng(labels_seed).integers(k, size=n)
    logits = np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), labels] += strength
    return Outcome.from_logits(logits, labels, keep_scores=True)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_resampled_values_equal_the_metric_on_drawn_samples(metric):
    outcome = an_outcome(0)
    counts = next(resample_counts(150, 6, seed=3))
    assert (counts.sum(1) == 150).all()
    function = {
        "top1": metrics.top1,
        "mean-per-class": metrics.mean_per_class,
        "map11": metrics.map11,
        "map": metrics.mean_average_precision,
        "roc-auc": metrics.roc_auc,
    }[metric]
    draws = [np.repeat(np.arange(150), row) for row in counts]
    expected = [function(outcome.scores[draw], outcome.labels[draw]) for draw in draws]
    assert outcome.resampled(metric, counts) == pytest.approx(expected)


def test_mean_per_class_skips_classes_that_a_resample_lacks():
    outcome = an_outcome(0, n=12)
    drawn = np.where(outcome.labels == outcome.labels[0], 0, 1)[None]
    kept = drawn[0].astype(bool)
    expected = metrics.mean_per_class(outcome.scores[kept], outcome.labels[kept])
    assert outcome.resampled("mean-per-class", drawn)[0] == pytest.approx(expected)


def test_chunks_give_all_resamples_and_do_not_change_the_draws(monkeypatch):
    whole = np.concatenate(list(resample_counts(40, 10, seed=1)))
    monkeypatch.setattr("retroclip.evaluation.bootstrap.CHUNK_DRAWS", 120)
    chunked = np.concatenate(list(resample_counts(40, 10, seed=1)))
    assert chunked.shape == (10, 40)
    assert (whole == chunked).all()


def test_interval_of_accuracy_is_near_the_normal_one():
    outcome = an_outcome(1, n=800)
    p = outcome.value("top1")
    half = 1.96 * np.sqrt(p * (1 - p) / 800)
    low, high = bootstrap_interval([outcome], "top1")
    assert (low, high) == pytest.approx((p - half, p + half), abs=0.006)


def test_paired_gain_is_antisymmetric_and_tighter_than_unpaired():
    base = an_outcome(2, n=600)
    better = Outcome(
        base.labels, base.predicted, base.correct | (np.arange(600) % 10 == 0), base.confidence, base.n_classes
    )
    gain, (low, high) = paired_gain([better], [base], "top1")
    assert gain == pytest.approx(100 * (better.correct.mean() - base.correct.mean()))
    assert 0 < low < gain < high
    loss, ends = paired_gain([base], [better], "top1")
    assert (loss, *ends) == pytest.approx((-gain, -high, -low))
    unpaired = 100 * np.subtract(*bootstrap_interval([base], "top1")[::-1])
    assert high - low < unpaired


def test_paired_gain_averages_over_seeds_and_needs_the_same_samples():
    base, seeds = an_outcome(2), [an_outcome(3, strength=2), an_outcome(4, strength=2)]
    gain, _ = paired_gain(seeds, [base], "mean-per-class")
    values = [o.value("mean-per-class") for o in seeds]
    assert gain == pytest.approx(100 * (np.mean(values) - base.value("mean-per-class")))
    with pytest.raises(ValueError, match="same evaluation set"):
        paired_gain([an_outcome(2, labels_seed=8)], [base], "top1")


def test_outcome_survives_the_disk(tmp_path):
    outcome = an_outcome(5)
    outcome.save(tmp_path / "o.npz")
    back = Outcome.load(tmp_path / "o.npz")
    assert back.value("map11") == outcome.value("map11")
    assert (back.correct == outcome.correct).all()
    assert back.top5 == outcome.top5
