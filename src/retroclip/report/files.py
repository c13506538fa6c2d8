"""Results written to a file in the form that its name asks for."""

from collections.abc import Callable, Sequence
from pathlib import Path

from retroclip.errors import RetroclipError
from retroclip.evaluation import Result
from retroclip.files import write_whole
from retroclip.report import plots
from retroclip.report.groups import group, tell_apart
from retroclip.report.html import Report, render
from retroclip.report.overview import overview
from retroclip.report.sheet import csv_table
from retroclip.report.tables import markdown_table, overview_table

# The colours of a page stand behind these names; a picture by itself needs its own.
COLOURS = {"ink": "#1d2330", "line": "#dfe3ea", "gain": "#1b9e77", "loss": "#d95f0e"} | dict(
    enumerate(("#2457c5", "#d95f0e", "#1b9e77", "#9a4fb5", "#a6761d", "#66717f"))
)


def write_as(results: Sequence[Result], path: Path) -> None:
    """Write results as .html, .md, .csv or .svg; the file appears under its name only when whole.

    Raises RetroclipError for another ending, and for a plot of results on a single data set.
    """
    forms: dict[str, Callable[[Sequence[Result]], str]] = {
        ".html": lambda rows: render(Report(results=rows)),
        ".md": as_markdown,
        ".csv": csv_table,
        ".svg": as_plot,
    }
    if path.suffix.lower() not in forms:
        raise RetroclipError(f"{path}: a report is a file that ends in {', '.join(forms)}")
    text = forms[path.suffix.lower()](results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def as_markdown(results: Sequence[Result]) -> str:
    """All side by side where there are several tasks, protocols or memories, then a table for each."""
    groups = group(results)
    return "\n".join(filter(None, [overview_table(results), *map(markdown_table, groups, tell_apart(groups))]))


def as_plot(results: Sequence[Result]) -> str:
    """The plot of all tasks as a picture that stands alone."""
    table = overview(results)
    if table is None:
        raise RetroclipError("a plot needs results on at least two data sets, or of two protocols: write .html for one")
    text = plots.plot_overview(table)
    for name, colour in COLOURS.items():
        variable = f"var(--series-{name})" if isinstance(name, int) else f"var(--{name})"
        text = text.replace(variable, colour)
    return text
