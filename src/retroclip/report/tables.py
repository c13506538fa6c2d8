"""The comparison as a table: for the terminal (rich) and Markdown."""

import math
from collections.abc import Sequence

from rich.table import Table

from retroclip.evaluation import Result
from retroclip.evaluation.result import REFERENCES
from retroclip.evaluation.training_set import MARK
from retroclip.report.groups import joined, key_of, leading, shots_text
from retroclip.report.labels import row_labels, settings_differ, templates_in_words
from retroclip.report.overview import overview

# What trained detectors and segmenters are compared with: told below the table, not a column each.
COMPARED = ("zero-shot-", "grid-", "gain-")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign: 0.873 → '87.3'."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A gain in points with its sign: 2.34 → '+2.3'."""
    if value is None or math.isnan(value):
        return "–"
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def interval_of(low_high: tuple[float, float] | None, *, signed: bool = False) -> str:
    """An interval of shares ('84.9–89.1') or, signed, of points ('+1.2 to +3.4')."""
    if low_high is None or any(map(math.isnan, low_high)):
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


def data_name(result: Result) -> str:
    """`dataset#split`; a split called all is the whole file."""
    return joined(result.dataset, result.split)


def measured_on(result: Result) -> list[str]:
    """The data, protocol and memory, in words; a name that says nothing new is left out ("memory memory")."""
    data = [f"data {data_name(result)}"] if data_name(result) != result.task else []
    protocol = [result.protocol] if result.protocol != "classification" else []
    key = key_of(result)
    shots = [shots_text(key)] if key.learnt else []
    plain = result.memory in ("memory", REFERENCES)
    memory = [str(result.memory) if plain else f"memory {result.memory}"] if result.memory else []
    return data + protocol + shots + memory


def finished(results: Sequence[Result]) -> list[Result]:
    """Those that didn't fail."""
    return [result for result in results if result.error is None]


def caption(results: Sequence[Result], added: Sequence[str] = ()) -> str:
    """One line that says what the figures of a group were measured on; `added` is said after the model's name."""
    first = leading(results)
    seeds = max((r.seeds for r in results), key=len)
    templates = {tuple(r.templates) for r in finished(results)}
    parts = [
        first.task if data_name(first) == first.task else f"{first.task} on {data_name(first)}",
        *([first.protocol] if first.protocol != "classification" else []),
        f"n = {first.n:,}",
        f"model {first.model}",
        *added,
        f"metric {first.metric}",
    ]
    if first.templates and len(templates) == 1:
        parts.append(templates_in_words(first.templates))
    if key_of(first).learnt:
        parts.append(f"{shots_text(key_of(first))} of {first.options.get('train', 'unnamed')}")
    if first.memory:
        parts.append(f"{measured_on(first)[-1]} ({count(first.memory_pairs)} pairs)")
    if seeds:
        parts.append(f"seeds {', '.join(map(str, seeds))}")
    return " · ".join(parts)


def side_metrics(results: Sequence[Result]) -> list[str]:
    """The metrics that stand beside the task's own: top-1 for classification, the other recalls for retrieval."""
    first = leading(results)
    if first.top1 is None or first.protocol != "classification":
        names = dict.fromkeys(name for result in finished(results) or results for name in result.metrics)
        return [name for name in names if name != first.metric and not name.startswith(COMPARED)]
    return [] if first.metric == "top1" else ["top1"]


def side_value(result: Result, name: str) -> float | None:
    """The value of a metric beside the task's own."""
    return result.top1 if name == "top1" and result.top1 is not None else result.metrics.get(name)


def footnotes(results: Sequence[Result]) -> list[str]:
    """What a reader must know beside the figures: `shared_notes`, then `row_notes`."""
    return shared_notes(results) + row_notes(results)


def shared_notes(results: Sequence[Result]) -> list[str]:
    """What holds for all rows of a table."""
    notes = ["Intervals: 95 %, bootstrap over the images."]
    if any(r.gain is not None for r in results):
        notes.append("Gains are over zero-shot, in percentage points, their intervals paired.")
    if controls := list(dict.fromkeys(r.control for r in results if r.control)):
        notes.append(f"Over control: the same over the best method that trains nothing ({', '.join(controls)}).")
    if settings_differ(results):
        notes.append("Rows differ in settings: none of them is called the best.")
    return notes + [text for texts in _told(results) if len(own := set(texts.values())) == 1 for text in own if text]


def row_notes(results: Sequence[Result]) -> list[str]:
    """What isn't the same for all rows of a table, a line for each row that has something to say."""
    lines = []
    differing = [texts for texts in _told(results) if len(set(texts.values())) > 1]
    for position, label in enumerate(row_labels(results)):
        if own := [texts[position] for texts in differing if texts.get(position)]:
            lines.append(f"{label}: {' '.join(own)}")
    return lines


def _told(results: Sequence[Result]) -> list[dict[int, str]]:
    """Each kind of note by the position of the rows that didn't fail; of a memory only for rows that read one."""
    done = {position: result for position, result in enumerate(results) if result.error is None}
    reading = {position: r for position, r in done.items() if r.excluded_near_duplicates is not None}
    kinds = (_missing, _baseline, _other_intervals, _compared, _rejected)
    return [
        {position: _excluded(r) for position, r in reading.items()},
        *({position: told(r) for position, r in done.items()} for told in kinds),
    ]


def _excluded(result: Result) -> str:
    consulted = REFERENCES if result.memory == REFERENCES else "memory"
    # A memory may keep images of some pairs only; of reference sets, older ones keep no thumbnails.
    alone, both = " alone: it keeps no thumbnails", ", and alike as thumbnails where there are images"
    return (
        f"{result.excluded_near_duplicates:,} of the {consulted}'s pairs were left out as near-duplicates of "
        f"evaluation images (cosine over {result.near_threshold}{alone if result.near_thumbnails is False else both})."
    )


def _missing(result: Result) -> str:
    missing = len(result.missing_classes)
    return f"{missing} classes of the task have no evaluation image." if missing else ""


def _baseline(result: Result) -> str:
    shown = ", ".join(f"{name} {percent(value)}" for name, value in result.baselines.items())
    return f"Baseline, {result.baseline}: {shown}." if result.baseline else ""


def _other_intervals(result: Result) -> str:
    others = {name: value for name, value in result.intervals.items() if not name.startswith(COMPARED)}
    shown = ", ".join(f"{name} {interval_of(value)}" for name, value in others.items())
    return f"95 % intervals of the others: {shown}." if others else ""


def _compared(result: Result) -> str:
    compared = [compared_text(result, name) for name in result.metrics if name.startswith(COMPARED)]
    return f"Beside it: {', '.join(compared)}." if compared else ""


def _rejected(result: Result) -> str:
    rejected = len(result.rejected)
    return f"{rejected} evaluation images{_parts(result)} could not be used and were left out." if rejected else ""


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


def _columns(results: Sequence[Result]) -> list[str]:
    gains = ["gain", "95 % of gain"] if any(r.gain is not None for r in results) else []
    gains += ["over control", "95 % of it"] if any(r.control is not None for r in results) else []
    columns = ["method", leading(results).metric, "95 %", *side_metrics(results), *gains]
    return [*columns, "seconds (fit + predict)", "trained"]


def _cells(result: Result, label: str, columns: Sequence[str], side: Sequence[str]) -> list[str]:
    if result.error is not None:
        return [label, "failed", *[""] * (len(columns) - 2)]
    cells = [label, with_deviation(result), interval_of(result.interval)]
    cells += [percent(side_value(result, name)) for name in side]
    if "gain" in columns:
        cells += [points(result.gain), interval_of(result.gain_interval, signed=True)]
    if "over control" in columns:
        cells += [points(result.control_gain), interval_of(result.control_gain_interval, signed=True)]
    cells += [f"{duration(result.fit_seconds)} + {duration(result.predict_seconds)}", count(result.trained_parameters)]
    return cells


def rich_table(results: Sequence[Result], added: Sequence[str] = ()) -> Table:
    """One group of results for the terminal; the best value is bold, failures are below; `added` as of `caption`."""
    columns, labels = _columns(results), row_labels(results)
    failures = [f"{_plain(r.method)} failed: {_plain(r.error)}" for r in results if r.error is not None]
    table = Table(
        title=_plain(caption(results, added)), caption="\n".join([*map(_plain, footnotes(results)), *failures])
    )
    short = max(map(len, labels)) <= 30
    for position, column in enumerate(columns):
        table.add_column(
            column, justify="left" if position == 0 else "right", no_wrap=position == 1 or (position == 0 and short)
        )
    best = max((r.value for r in results if r.value is not None), default=None)
    best = None if settings_differ(results) else best
    for result, label in zip(results, labels, strict=True):
        style = "bold" if result.value is not None and result.value == best else "red" if result.error else None
        table.add_row(*map(_plain, _cells(result, label, columns, side_metrics(results))), style=style)
    return table


def _plain(text: str | None) -> str:
    from rich.markup import escape

    return escape(text or "")


def markdown_table(results: Sequence[Result], added: Sequence[str] = ()) -> str:
    """One group of results as Markdown, with its circumstances above and its notes below; `added` as of `caption`."""
    columns, labels = _columns(results), row_labels(results)
    lines = [_md(caption(results, added)), "", _md_row(columns), _md_row(["---", *["---:"] * (len(columns) - 1)])]
    lines += [
        _md_row(_cells(r, label, columns, side_metrics(results))) for r, label in zip(results, labels, strict=True)
    ]
    failures = [f"{r.method} failed: {r.error}" for r in results if r.error is not None]
    return "\n".join([*lines, "", *[f"{_md(note)}  " for note in [*footnotes(results), *failures]]]) + "\n"


def _md(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def overview_table(results: Sequence[Result]) -> str:
    """Everything side by side as Markdown: values in per cent, with the mean over the tasks that all rows have."""
    table = overview(results)
    if table is None:
        return ""
    means = [f"mean of {len(table.shared)}"] if table.shared else []
    columns = ["model", "method", *[column.name for column in table.columns], *means]
    lines = [_md_row(columns), _md_row(["---", "---", *["---:"] * (len(columns) - 2)])]
    for number, (model, method) in enumerate(table.rows):
        cells = [table.cells.get((number, column)) for column in range(len(table.columns))]
        shown = ["–" if cell is None else with_deviation(cell) for cell in cells]
        lines.append(_md_row([model, method, *shown, *([percent(table.mean(number))] if means else [])]))
    return "\n".join(lines) + "\n"
