"""Results as CSV: one row each, every metric, interval and baseline a column of its own."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from retroclip.evaluation import Result

FIELDS = (
    "task", "dataset", "split", "n", "model", "method", "metric", "value", "low", "high", "sd", "top1",
    "gain_points", "gain_low", "gain_high", "top1_gain_points", "top1_gain_low", "top1_gain_high",
    "control", "control_gain_points", "control_gain_low", "control_gain_high",
    "fit_seconds", "predict_seconds", "trained_parameters", "seed", "seeds", "memory", "memory_pairs",
    "excluded_near_duplicates", "near_threshold", "top5", "mean-per-class", "ece", "fingerprint", "precision",
    "data_hash", "protocol", "templates", "options", "baseline", "versions", "date", "error",
)  # fmt: skip


def csv_table(results: Sequence[Result]) -> str:
    """All results as CSV: values in [0, 1], gains in points, one row a result.

    Behind the fixed columns stand the metrics that any result has (`ap50-novel`, with `ap50-novel_low` and `_high`) and
    the baselines (`baseline_ap50`). `templates` and `options` are JSON.
    """
    metrics = [name for name in _names(r.metrics for r in results) if name not in FIELDS]
    intervals = _names(r.intervals for r in results) + (["top1"] if any(r.top1_interval for r in results) else [])
    ends = [f"{name}_{end}" for name in dict.fromkeys(intervals) for end in ("low", "high")]
    baselines = [f"baseline_{name}" for name in _names(r.baselines for r in results)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*FIELDS, *metrics, *ends, *baselines], lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow(_row(result))
    return buffer.getvalue()


def _names(parts: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _row(result: Result) -> dict[str, Any]:
    clean = Result.model_validate(result.model_dump(mode="json"))  # without NaN
    row: dict[str, Any] = {name: getattr(clean, name) for name in FIELDS if hasattr(clean, name)}
    row |= {name: value for name, value in clean.metrics.items() if name not in FIELDS or row.get(name) is None}
    intervals: dict[str, tuple[float, float] | None] = {f"{name}_": ends for name, ends in clean.intervals.items()}
    intervals |= {"": clean.interval, "gain_": clean.gain_interval, "top1_gain_": clean.top1_gain_interval}
    intervals |= {"control_gain_": clean.control_gain_interval}
    intervals |= {"top1_": clean.top1_interval} if clean.top1_interval else {}
    for name, ends in intervals.items():
        row |= dict(zip((f"{name}low", f"{name}high"), ends or (None, None), strict=True))
    return row | {
        "templates": json.dumps(clean.templates, ensure_ascii=False),
        "options": json.dumps(
            {k: v for k, v in clean.options.items() if k != "suite"}, ensure_ascii=False, default=str
        ),
        "versions": " ".join(f"{name}={version}" for name, version in clean.versions.items()),
        "control_gain_points": clean.control_gain,
        "gain_points": clean.gain,
        "top1_gain_points": clean.top1_gain,
        "seeds": " ".join(map(str, clean.seeds)),
        **{f"baseline_{name}": value for name, value in clean.baselines.items()},
    }
