"""What a model answered on one data set: enough to compute, resample and compare its metric, and no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import ModelError
from retroclip.evaluation import metrics
from retroclip.files import whole_file

# Both are the share of `correct`; for retrieval a sample is an image, right if one of its captions comes first.
SHARE_CORRECT = ("top1", "i2t-recall@1")
ARRAYS = ("labels", "predicted", "correct", "confidence")


@dataclass(frozen=True, eq=False)
class Outcome:
    """One model's answers; arrays are aligned to the evaluation set.

    `labels`, `predicted` are `(n,)` class indices, `confidence` `(n,)` the softmax probability of the predicted class,
    `correct` `(n,)` whether it is the sample's class. `scores` `(n, K)` is kept only where the metric
    ranks samples (map11, map, roc-auc): for ImageNet it would be 200 MB a model. Where images may have several classes,
    `labels` is `(n, K)` booleans, and an answer is right if it is one of them.
    """

    labels: NDArray[Any]
    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    n_classes: int
    scores: NDArray[np.float32] | None = None
    top5: float = float("nan")

    @classmethod
    def from_logits(cls, logits: NDArray[np.float32], labels: NDArray[Any], *, keep_scores: bool) -> "Outcome":
        """Reduce logits `(n, K)` to an outcome; ModelError where any of them is not finite."""
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        if bad:
            raise ModelError(
                f"the model gave NaN or infinite scores for {bad} of {len(logits)} images: check its weights"
            )
        probabilities = metrics.softmax(logits)
        predicted = logits.argmax(1)
        several = labels.ndim == 2
        return cls(
            labels=labels,
            predicted=predicted,
            correct=labels[np.arange(len(labels)), predicted] if several else predicted == labels,
            confidence=probabilities.max(1),
            n_classes=logits.shape[1],
            scores=logits if keep_scores else None,
            top5=float("nan") if several else metrics.top5(logits, labels),
        )

    @classmethod
    def joined(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """The outcome of samples that were answered in parts, in their order."""
        first = parts[0]
        if len(parts) == 1:
            return first
        arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        kept = [part.scores for part in parts if part.scores is not None]
        top5 = float(np.average([part.top5 for part in parts], weights=[len(part.labels) for part in parts]))
        return cls(**arrays, n_classes=first.n_classes, scores=np.concatenate(kept) if kept else None, top5=top5)

    def value(self, metric: str) -> float:
        """The metric (one of `metrics.METRICS`) over all samples."""
        if metric in SHARE_CORRECT:
            return float(self.correct.mean())
        if metric == "mean-per-class":
            return float(np.nanmean(self.per_class()))
        return _ranking(metric)(self._kept(metric), self.labels)

    def per_class(self) -> NDArray[np.floating]:
        """Accuracy of each class, `(K,)`, NaN for classes without samples; 11-point precision if they overlap."""
        if self.labels.ndim == 2:
            return metrics.precision_per_class(self._kept("map11"), self.labels)
        return metrics.accuracy_per_class(self.correct, self.labels, self.n_classes)

    def resampled(self, metric: str, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """The metric on each resample; `counts` `(b, n)` says how often a sample was drawn. Returns `(b,)`."""
        if metric in SHARE_CORRECT:
            return counts @ self.correct / counts.sum(1)
        if metric == "mean-per-class":
            return self._resampled_mean_per_class(counts)
        rank, scores = _ranking(metric), self._kept(metric)
        draws = (np.repeat(np.arange(len(row)), row) for row in counts)
        return np.array([rank(scores[draw], self.labels[draw]) for draw in draws])

    def _resampled_mean_per_class(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        # Sums over runs of equal labels: linear in b·n, where a product with one-hot labels would cost b·n·K.
        order = np.argsort(self.labels, kind="stable")
        starts = np.flatnonzero(np.diff(self.labels[order], prepend=-1))
        drawn = counts[:, order]
        totals = np.add.reduceat(drawn, starts, axis=1)
        hits = np.add.reduceat(drawn * self.correct[order], starts, axis=1)
        accuracy = np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
        return np.nanmean(accuracy, axis=1)

    def _kept(self, metric: str) -> NDArray[np.float32]:
        if self.scores is None:
            raise ModelError(f"the scores of this outcome were not kept: evaluate again with metric {metric!r}")
        return self.scores

    def save(self, path: Path) -> None:
        """Write as a compressed .npz, which appears whole."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS} | {
            "n_classes": self.n_classes,
            "top5": self.top5,
        }
        if self.scores is not None:
            arrays["scores"] = self.scores
        with whole_file(path) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
            scores = stored.get("scores")
            return cls(**arrays, n_classes=int(stored["n_classes"]), top5=float(stored["top5"]), scores=scores)


def _ranking(metric: str):
    return {"map11": metrics.map11, "map": metrics.mean_average_precision, "roc-auc": metrics.roc_auc}[metric]
