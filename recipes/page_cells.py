"""What the tables of the results page are made of: cells, intervals, verdicts, and the results that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retroclip.evaluation import Result, load_results
from retroclip.report.figures import interval_of, percent, points

RESULTS = Path("docs/results")
SUPPORTED, REFUTED, OPEN = "agrees", "disagrees", "no difference shown"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Markdown; the first `words` columns are set to the left, figures to the right."""
    if not rows:
        return "Not measured yet with this model."
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says about the finding that it is above 0."""
    return SUPPORTED if low > 0 else REFUTED if high < 0 else OPEN


def stored(*path: str) -> list[Result]:
    """Results in a file, none where it isn't there."""
    file = RESULTS.joinpath(*path)
    return load_results(file) if file.exists() else []


def gained(gain: float | None, interval: tuple[float, float] | None) -> str:
    return "–" if gain is None else f"{points(gain)} ({interval_of(interval, signed=True)})"


def with_interval(value: float, interval: tuple[float, float] | None, *, signed: bool = False) -> str:
    if interval is None:
        return percent(value)
    ends = tuple(100 * edge for edge in interval) if signed else interval
    return f"{percent(value)} ({interval_of((ends[0], ends[1]), signed=signed)})"
