"""Results with known figures."""

import numpy as np
import pytest

from retroclip.evaluation import Outcome, Result


def make(method, value, **given):
    defaults = {
        "task": "pets", "dataset": "pets", "split": "val", "n": 200, "model": "builtin", "metric": "mean-per-class",
        "interval": (value - 0.03, value + 0.03), "top1": value + 0.01, "per_class": {"cat": value, "dog": value / 2},
        "templates": ["a photo of a {}."], "memory": "mem", "memory_pairs": 5000, "excluded_near_duplicates": 12,
        "near_threshold": 0.95,
        "fingerprint": "abc123", "data_hash": "feed", "fit_seconds": 3.0, "predict_seconds": 1.5,
    }  # fmt: skip
    return Result(method=method, value=value, **defaults | given)


@pytest.fixture
def results():
    failed = Result(
        task="pets", dataset="pets", split="val", n=200, model="builtin", metric="mean-per-class", memory="mem",
        method="ra-clip", error="no caption | at all [bold]",
    )  # fmt: skip
    tuned = make(
        "gated-image", 0.912, sd=0.004, seeds=[0, 1, 2], gain=41.2, gain_interval=(38.0, 44.1),
        trained_parameters=10_650_000, history=[{"step": s, "loss": 1 / s} for s in range(1, 9)],
    )  # fmt: skip
    return [make("zero-shot", 0.5), make("primed", 0.45, gain=-5.0, gain_interval=(-7.5, -2.1)), tuned, failed]


@pytest.fixture
def make_result():
    return make


@pytest.fixture
def make_outcome():
    def outcome(labels, predicted):
        labels, predicted = np.array(labels), np.array(predicted)
        return Outcome(labels, predicted, labels == predicted, np.full(len(labels), 0.75), labels.max() + 1)

    return outcome
