"""Bootstrap intervals over the samples of an evaluation set, for one outcome and for the gain between two."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from retroclip.evaluation.outcome import Outcome

RESAMPLES = 2000
RANKING_RESAMPLES = 500  # map11, map and roc-auc sort every resample anew
CHUNK_DRAWS = 8_000_000


def resample_counts(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Chunks `(b, n)` of how often each of n samples is drawn in a resample with replacement; b sums to `resamples`."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_DRAWS // n)
    for start in range(0, resamples, step):
        b = min(step, resamples - start)
        draws = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(draws.ravel(), minlength=b * n).reshape(b, n)


def resampled_means(outcomes: Sequence[Outcome], metric: str, *, resamples: int, seed: int) -> NDArray[np.float64]:
    """The metric, averaged over outcomes (the seeds of one method), on each resample of the samples, `(resamples,)`."""
    n = len(outcomes[0].labels)
    if metric in ("map11", "map", "roc-auc"):
        resamples = min(resamples, RANKING_RESAMPLES)
    chunks = resample_counts(n, resamples, seed)
    return np.concatenate([np.mean([o.resampled(metric, counts) for o in outcomes], axis=0) for counts in chunks])


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The central interval of the resampled values; NaN resamples (a class never drawn) are left out."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_interval(
    outcomes: Sequence[Outcome], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the metric (mean over outcomes) under resampling of the samples."""
    return percentile_interval(resampled_means(outcomes, metric, resamples=resamples, seed=seed))


def paired_gain(
    outcomes: Sequence[Outcome], base: Sequence[Outcome], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """Gain over `base` in percentage points with its 95 % interval: both are resampled with the same draws.

    `resamples=0` leaves out the interval. Raises ValueError where the two were not evaluated on the same samples.
    """
    if any(not np.array_equal(o.labels, base[0].labels) for o in [*outcomes, *base]):
        raise ValueError("a paired gain needs two outcomes on the same evaluation set")
    gain = 100 * float(np.mean([o.value(metric) for o in outcomes]) - np.mean([o.value(metric) for o in base]))
    if not resamples:
        return gain, None
    ours = resampled_means(outcomes, metric, resamples=resamples, seed=seed)
    theirs = resampled_means(base, metric, resamples=resamples, seed=seed)
    low, high = percentile_interval(ours - theirs)
    return gain, (100 * low, 100 * high)
