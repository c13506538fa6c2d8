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
    clean = result.model_dump(mode="json")  # without NaN
    row = {name: clean.get(name) for name in FIELDS}
    row |= {name: value for name, value in clean["metrics"].items() if row.get(name) is None}
    ends = {name: clean[f"{name}_interval"] for name in ("gain", "top1_gain", "control_gain")}
    ends |= {name: pair for name, pair in {**clean["intervals"], "top1": clean["top1_interval"]}.items() if pair}
    for name, (low, high) in ((name, pair or (None, None)) for name, pair in ends.items()):
        row |= {f"{name}_low": low, f"{name}_high": high}
    row["low"], row["high"] = clean["interval"] or (None, None)
    row |= {f"{name}_points": clean[name] for name in ("gain", "top1_gain", "control_gain")}
    row |= {f"baseline_{name}": value for name, value in clean["baselines"].items()}
    options = {name: value for name, value in clean["options"].items() if name != "suite"}
    return row | {
        "templates": json.dumps(clean["templates"], ensure_ascii=False),
        "options": json.dumps(options, ensure_ascii=False, default=str),
        "versions": " ".join(f"{name}={version}" for name, version in clean["versions"].items()),
        "seeds": " ".join(map(str, clean["seeds"])),
    }
