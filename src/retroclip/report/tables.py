"""The comparison as a table: for the terminal (rich), Markdown and CSV."""

import csv
import io
from collections.abc import Sequence

from rich.table import Table

from retroclip.evaluation import Result
from retroclip.evaluation.training_set import MARK
from retroclip.report.overview import overview

CSV_FIELDS = (
    "task", "dataset", "split", "n", "model", "method", "metric", "value", "low", "high", "sd", "top1",
    "gain_points", "gain_low", "gain_high", "top1_gain_points", "top1_gain_low", "top1_gain_high",
    "control", "control_gain_points", "control_gain_low", "control_gain_high",
    "fit_seconds", "predict_seconds", "trained_parameters", "seeds", "memory", "memory_pairs",
    "excluded_near_duplicates", "top5", "mean-per-class", "ece", "fingerprint", "precision", "data_hash", "protocol",
    "templates", "versions", "date", "error",
)  # fmt: skip

# What trained detectors and segmenters are compared with: told below the table, not a column each.
COMPARED = ("zero-shot-", "grid-", "gain-")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign: 0.873 → '87.3'."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A gain in points with its sign: 2.34 → '+2.3'."""
    if value is None:
        return "–"
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def interval_of(low_high: tuple[float, float] | None, *, signed: bool = False) -> str:
    """An interval of shares ('84.9–89.1') or, signed, of points ('+1.2 to +3.4')."""
    if low_high is None:
        return "–"
    low, high = low_high
    return f"{points(low)} to {points(high)}" if signed else f"{percent(low)}–{percent(high)}"


def duration(seconds: float) -> str:
    """Seconds to read: '0.4 s', '12 s', '3 min 20 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


def count(number: int | None) -> str:
    """A count to read: '0', '12,345', '1.58 M'."""
    if number is None:
        return "–"
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def amount(number: float | None) -> str:
    """A count that may be a mean over seeds: '12', '12.3', '1,234'."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 or float(number).is_integer() else f"{number:,.1f}"


def with_deviation(result: Result) -> str:
    """The value as a percentage, ± the standard deviation over seeds where there are several."""
    deviation = f" ± {percent(result.sd)}" if result.sd is not None else ""
    return percent(result.value) + deviation


def group(results: Sequence[Result]) -> list[list[Result]]:
    """Results that may stand in one table: the same task, data, model and memory; groups in order of appearance."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        key = (result.task, result.dataset, result.split, result.model, result.memory, result.data_hash)
        # A failed row knows no data hash; it belongs to the row before it.
        if result.error is not None:
            key = next((known for known in groups if known[:5] == key[:5]), key)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def data_name(result: Result) -> str:
    """`dataset#split`; a split called all is the whole file."""
    return f"{result.dataset}#{result.split}" if result.split not in (None, "", "all") else result.dataset


def measured_on(result: Result) -> list[str]:
    """The data and the memory, in words; a name that says nothing new is left out ("memory memory")."""
    data = [f"data {data_name(result)}"] if data_name(result) != result.task else []
    memory = ["memory" if result.memory == "memory" else f"memory {result.memory}"] if result.memory else []
    return data + memory


def caption(results: Sequence[Result]) -> str:
    """One line that says what the figures of a group were measured on."""
    first = results[0]
    seeds = max((r.seeds for r in results), key=len)
    parts = [
        first.task if data_name(first) == first.task else f"{first.task} on {data_name(first)}",
        f"n = {first.n:,}",
        f"model {first.model}",
        f"metric {first.metric}",
    ]
    if first.templates:
        parts.append(_templates(first.templates))
    if first.memory:
        parts.append(f"{measured_on(first)[-1]} ({count(first.memory_pairs)} pairs)")
    if seeds:
        parts.append(f"seeds {', '.join(map(str, seeds))}")
    return " · ".join(parts)


def side_metrics(results: Sequence[Result]) -> list[str]:
    """The metrics that stand beside the task's own: top-1 for classification, the other recalls for retrieval."""
    first = next((r for r in results if r.error is None), results[0])
    if first.top1 is None or first.protocol != "classification":
        return [name for name in first.metrics if name != first.metric and not name.startswith(COMPARED)]
    return [] if first.metric == "top1" else ["top1"]


def side_value(result: Result, name: str) -> float | None:
    """The value of a metric beside the task's own."""
    return result.top1 if name == "top1" else result.metrics.get(name)


def footnotes(results: Sequence[Result]) -> list[str]:
    """What a reader must know beside the figures."""
    notes = ["Intervals: 95 %, bootstrap over the images."]
    if any(r.gain is not None for r in results):
        notes.append("Gains are over zero-shot, in percentage points, their intervals paired.")
    if controls := list(dict.fromkeys(r.control for r in results if r.control)):
        notes.append(f"Over control: the same over the best method that trains nothing ({', '.join(controls)}).")
    first = results[0]
    if first.excluded_near_duplicates is not None:
        notes.append(
            f"{first.excluded_near_duplicates:,} of the memory's pairs were left out as near-duplicates of evaluation "
            f"images (cosine over {first.near_threshold}, and alike as thumbnails)."
        )
    if first.missing_classes:
        notes.append(f"{len(first.missing_classes)} classes of the task have no evaluation image.")
    if first.baseline:
        shown = ", ".join(f"{name} {percent(value)}" for name, value in first.baselines.items())
        notes.append(f"Baseline, {first.baseline}: {shown}.")
    others = {name: value for name, value in first.intervals.items() if not name.startswith(COMPARED)}
    if others:
        shown = ", ".join(f"{name} {interval_of(value)}" for name, value in others.items())
        notes.append(f"95 % intervals of the others: {shown}.")
    if compared := [name for name in first.metrics if name.startswith(COMPARED)]:
        notes.append(f"Beside it: {', '.join(compared_text(first, name) for name in compared)}.")
    if first.rejected:
        notes.append(f"{len(first.rejected)} evaluation images{_parts(first)} could not be used and were left out.")
    return notes


def compared_text(result: Result, name: str) -> str:
    """A figure of the untrained model, or the gain over it in points, with its interval where there is one."""
    value, interval = result.metrics[name], result.intervals.get(name)
    if not name.startswith("gain-"):
        return f"{name} {percent(value)}" + (f" ({interval_of(interval)})" if interval else "")
    low_high = (100 * interval[0], 100 * interval[1]) if interval else None
    shown = f" ({interval_of(low_high, signed=True)})" if low_high else ""
    return f"{name} {points(100 * value)}{shown} points"


def _parts(result: Result) -> str:
    """What else than whole images a protocol rejects."""
    parts = {"regions": " or boxes", "detection": " or boxes", "segmentation": " or masks"}.get(result.protocol, "")
    training = sum(reason.startswith(MARK) for reason in result.rejected)
    return f"{parts} ({training} of them in the training set)" if training else parts


def _templates(templates: Sequence[str]) -> str:
    return f"template “{templates[0]}”" if len(templates) == 1 else f"{len(templates)} templates"


def _columns(results: Sequence[Result]) -> list[str]:
    gains = ["gain", "95 % of gain"] if any(r.gain is not None for r in results) else []
    gains += ["over control", "95 % of it"] if any(r.control is not None for r in results) else []
    columns = ["method", results[0].metric, "95 %", *side_metrics(results), *gains]
    return [*columns, "seconds (fit + predict)", "trained"]


def _cells(result: Result, columns: Sequence[str], side: Sequence[str]) -> list[str]:
    if result.error is not None:
        return [result.method, "failed", *[""] * (len(columns) - 2)]
    cells = [result.method, with_deviation(result), interval_of(result.interval)]
    cells += [percent(side_value(result, name)) for name in side]
    if "gain" in columns:
        cells += [points(result.gain), interval_of(result.gain_interval, signed=True)]
    if "over control" in columns:
        cells += [points(result.control_gain), interval_of(result.control_gain_interval, signed=True)]
    cells += [f"{duration(result.fit_seconds)} + {duration(result.predict_seconds)}", count(result.trained_parameters)]
    return cells


def rich_table(results: Sequence[Result]) -> Table:
    """One group of results for the terminal; the best value is bold, failures are below."""
    columns = _columns(results)
    failures = [f"{_plain(r.method)} failed: {_plain(r.error)}" for r in results if r.error is not None]
    table = Table(title=_plain(caption(results)), caption="\n".join([*map(_plain, footnotes(results)), *failures]))
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=position < 2)
    best = max((r.value for r in results if r.value is not None), default=None)
    for result in results:
        style = "bold" if result.value is not None and result.value == best else "red" if result.error else None
        table.add_row(*map(_plain, _cells(result, columns, side_metrics(results))), style=style)
    return table


def _plain(text: str | None) -> str:
    from rich.markup import escape

    return escape(text or "")


def markdown_table(results: Sequence[Result]) -> str:
    """One group of results as Markdown, with its circumstances above and its notes below."""
    columns = _columns(results)
    lines = [_md(caption(results)), "", _md_row(columns), _md_row(["---", *["---:"] * (len(columns) - 1)])]
    lines += [_md_row(_cells(result, columns, side_metrics(results))) for result in results]
    failures = [f"{r.method} failed: {r.error}" for r in results if r.error is not None]
    return "\n".join([*lines, "", *[f"{_md(note)}  " for note in [*footnotes(results), *failures]]]) + "\n"


def _md(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def overview_table(results: Sequence[Result]) -> str:
    """Many tasks side by side as Markdown: values in per cent, with the mean over the tasks that all rows have."""
    table = overview(results)
    if table is None:
        return ""
    names = [f"{task} ({metric})" for task, _, metric in table.columns]
    columns = ["model", "method", *names, f"mean of {len(table.shared)}"]
    lines = [_md_row(columns), _md_row(["---", "---", *["---:"] * (len(columns) - 2)])]
    for number, (model, method) in enumerate(table.rows):
        cells = [table.cells.get((number, column)) for column in range(len(names))]
        shown = ["–" if cell is None else with_deviation(cell) for cell in cells]
        lines.append(_md_row([model, method, *shown, percent(table.mean(number))]))
    return "\n".join(lines) + "\n"


def csv_table(results: Sequence[Result]) -> str:
    """All results as CSV: values in [0, 1], gains in points, one row a method."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for r in results:
        row = {name: getattr(r, name) for name in CSV_FIELDS if hasattr(r, name)}
        row |= _ends("low", "high", r.interval) | _ends("gain_low", "gain_high", r.gain_interval)
        row |= _ends("top1_gain_low", "top1_gain_high", r.top1_gain_interval)
        row |= _ends("control_gain_low", "control_gain_high", r.control_gain_interval)
        row |= {name: r.metrics.get(name) for name in ("top5", "mean-per-class", "ece")}
        row |= {
            "templates": len(r.templates),
            "versions": " ".join(f"{name}={version}" for name, version in r.versions.items()),
            "control_gain_points": r.control_gain,
            "gain_points": r.gain,
            "top1_gain_points": r.top1_gain,
            "seeds": " ".join(map(str, r.seeds)),
        }
        writer.writerow(row)
    return buffer.getvalue()


def _ends(low: str, high: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    return dict(zip((low, high), interval or (None, None), strict=True))
