"""The comparison as a table: for the terminal (rich) and Markdown."""

from collections.abc import Sequence

from rich.table import Table

from retroclip.evaluation import Result
from retroclip.evaluation.result import REFERENCES
from retroclip.report.figures import count, duration, interval_of, percent, points, with_deviation
from retroclip.report.groups import joined, key_of, leading, shots_text
from retroclip.report.labels import row_labels, settings_differ, templates_in_words
from retroclip.report.notes import COMPARED, notes_below
from retroclip.report.overview import overview


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
    table = Table(title=_plain(caption(results, added)), caption="\n".join(map(_plain, notes_below(results))))
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
    return "\n".join([*lines, "", *[f"{_md(note)}  " for note in notes_below(results)]]) + "\n"


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
