"""Plots for the report, as inline SVG that follows the page's colours and fonts."""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retroclip.evaluation import Result
from retroclip.report.overview import Overview

# Stand-ins that are exchanged for CSS variables, so that one SVG serves the light and the dark page.
INK, FAINT, GAIN, LOSS = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010207", "#010208", "#010209", "#01020a", "#01020b", "#01020c")
VARIABLES = {INK: "var(--ink)", FAINT: "var(--line)", GAIN: "var(--gain)", LOSS: "var(--loss)"} | {
    colour: f"var(--series-{position})" for position, colour in enumerate(SERIES)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "retroclip",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MOST_GAINED, MOST_LOST = 20, 10
INCH_A_BAR = 0.24


def per_class_gains(base: Result, result: Result) -> list[tuple[str, float]]:
    """Gain of each class in points over `base`, the most gained first; classes absent from either are left out."""
    gains = [
        (name, 100 * (value - base.per_class[name]))
        for name, value in result.per_class.items()
        if name in base.per_class
    ]
    return sorted(gains, key=lambda item: (-item[1], item[0]))


def shown_gains(gains: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The part of the gains that is drawn: all of them, or the ends of the list where there are too many."""
    if len(gains) <= MOST_GAINED + MOST_LOST:
        return list(gains)
    return [*gains[:MOST_GAINED], *gains[-MOST_LOST:]]


def plot_gains(gains: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars of the gain in each class, in points; a dotted line where classes between are not drawn."""
    cut = MOST_GAINED if len(gains) > MOST_GAINED + MOST_LOST else None
    gains = shown_gains(gains)

    def draw(axes: Axes) -> None:
        names, values = [name for name, _ in gains], [value for _, value in gains]
        rows = range(len(gains))
        bars = axes.barh(rows, values, height=0.7, color=[GAIN if value >= 0 else LOSS for value in values])
        axes.bar_label(
            bars, labels=[f"{value:+.0f}".replace("-", "−") if value else "0" for value in values], padding=3
        )
        axes.set_yticks(rows, labels=names)
        axes.invert_yaxis()
        axes.axvline(0, color=INK, linewidth=0.8)
        if cut is not None:
            axes.axhline(cut - 0.5, color=INK, linewidth=1, linestyle=":")
        axes.margins(x=0.12, y=0.02)
        axes.set_xlabel("gain in accuracy, points")
        axes.tick_params(left=False)

    return _svg(draw, width=7.2, height=0.9 + INCH_A_BAR * len(gains))


def plot_curves(results: Sequence[Result]) -> str:
    """The loss of each trained method over its steps, as shares of the whole run (methods differ in length)."""

    def draw(axes: Axes) -> None:
        for position, result in enumerate(results):
            losses = [row["loss"] for row in result.history if "loss" in row]
            share = [(index + 1) / len(losses) for index in range(len(losses))]
            colour = SERIES[position % len(SERIES)]
            axes.plot([100 * s for s in share], losses, color=colour, linewidth=1.6, label=result.method)
        axes.set_xlabel("training done, %")
        axes.set_ylabel("training loss")
        axes.set_xlim(0, 100)
        axes.grid(axis="y", linewidth=0.6)
        # Below the curves: inside, it covers one of them.
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=4)

    return _svg(draw, width=7.2, height=3.2 + 0.2 * math.ceil(len(results) / 4))


def plot_overview(table: Overview) -> str:
    """Dots for each task, one colour a row of the overview, with their 95 % intervals."""

    def draw(axes: Axes) -> None:
        height = 0.7 / len(table.rows)
        for number, (model, method) in enumerate(table.rows):
            own = [(column, cell) for (row, column), cell in table.cells.items() if row == number]
            at = [column + (number - (len(table.rows) - 1) / 2) * height for column, _ in own]
            values = [100 * (cell.value or 0.0) for _, cell in own]
            ends = [cell.interval or (cell.value or 0.0, cell.value or 0.0) for _, cell in own]
            # A mean over seeds can lie outside of an interval by rounding.
            errors = [
                [max(0.0, value - 100 * low) for value, (low, _) in zip(values, ends, strict=True)],
                [max(0.0, 100 * high - value) for value, (_, high) in zip(values, ends, strict=True)],
            ]
            colour = SERIES[number % len(SERIES)]
            label = f"{model}, {method}" if len({row[0] for row in table.rows}) > 1 else method
            axes.errorbar(values, at, xerr=errors, fmt="o", color=colour, markersize=5, linewidth=1.2, label=label)
        axes.set_yticks(range(len(table.columns)), labels=[f"{task} ({metric})" for task, _, metric in table.columns])
        axes.invert_yaxis()
        axes.set_xlabel("%")
        axes.grid(axis="x", linewidth=0.6)
        axes.tick_params(left=False)
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=3)

    return _svg(draw, width=7.2, height=1.7 + (0.16 + 0.13 * len(table.rows)) * len(table.columns))


def _svg(draw: Callable[[Axes], None], *, width: float, height: float) -> str:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Glyphs that matplotlib's own font lacks are drawn by the browser.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    # The size comes from the page; the viewBox keeps the proportions.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
