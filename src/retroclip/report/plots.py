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
INCH_A_BAR, INCH_A_DOT = 0.24, 0.13
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # the next one when all colours are used up


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


def plot_curves(results: Sequence[Result], labels: Sequence[str] | None = None) -> str:
    """The loss of each trained method over its steps, as shares of the whole run (methods differ in length)."""
    names = labels or [result.method for result in results]

    def draw(axes: Axes) -> None:
        for position, result in enumerate(results):
            losses = [row["loss"] for row in result.history if "loss" in row]
            share = [(index + 1) / len(losses) for index in range(len(losses))]
            colour = SERIES[position % len(SERIES)]
            axes.plot([100 * s for s in share], losses, color=colour, linewidth=1.6, label=names[position])
        axes.set_xlabel("training done, %")
        axes.set_ylabel("training loss")
        axes.set_xlim(0, 100)
        axes.grid(axis="y", linewidth=0.6)
        # Below the curves: inside, it covers one of them.
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=4)

    return _svg(draw, width=7.2, height=3.2 + 0.2 * math.ceil(len(results) / 4))


def plot_overview(table: Overview) -> str:
    """Dots for each column, one colour and marker a row of the overview, with their 95 % intervals."""
    labels = [f"{model}, {method}" if len({m for m, _ in table.rows}) > 1 else method for model, method in table.rows]
    places, ticks = overview_places(table)

    def draw(axes: Axes) -> None:
        for number, label in enumerate(labels):
            own = [(places[place], cell) for place, cell in table.cells.items() if place[0] == number]
            values = [100 * (cell.value or 0.0) for _, cell in own]
            ends = [cell.interval or (cell.value or 0.0, cell.value or 0.0) for _, cell in own]
            # A mean over seeds can lie outside of an interval by rounding.
            errors = [
                [max(0.0, value - 100 * low) for value, (low, _) in zip(values, ends, strict=True)],
                [max(0.0, 100 * high - value) for value, (_, high) in zip(values, ends, strict=True)],
            ]
            shape: Any = {"color": SERIES[number % len(SERIES)], "fmt": MARKERS[number // len(SERIES) % len(MARKERS)]}
            axes.errorbar(values, [y for y, _ in own], xerr=errors, markersize=5, linewidth=1.2, label=label, **shape)
        axes.set_yticks(ticks, labels=[column.name for column in table.columns])
        axes.set_ylim(max(places.values()) + 1, -1)
        axes.set_xlabel("%")
        axes.grid(axis="x", linewidth=0.6)
        axes.tick_params(left=False)
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=ncols)

    # Beside each other as far as the longest name lets them.
    ncols = max(1, min(3, 90 // (8 + max(map(len, labels)))))
    below = 0.2 * math.ceil(len(labels) / ncols)
    return _svg(draw, width=7.2, height=1.0 + below + INCH_A_DOT * (len(table.cells) + len(table.columns)))


def overview_places(table: Overview) -> tuple[dict[tuple[int, int], float], list[float]]:
    """The height of every cell's dot, those of a column next to each other, and the middle of each column."""
    places: dict[tuple[int, int], float] = {}
    ticks, height = [], 0
    for column in range(len(table.columns)):
        rows = sorted(row for row, own in table.cells if own == column)
        places |= {(row, column): float(height + position) for position, row in enumerate(rows)}
        ticks.append(height + (len(rows) - 1) / 2)
        height += len(rows) + 1
    return places, ticks


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
