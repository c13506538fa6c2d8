"""Results on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from retroclip.evaluation import Result
from retroclip.report import tables


def print_comparison(results: Sequence[Result], console: Console | None = None) -> None:
    """Print one table for each group of results that belong together."""
    console = console or Console()
    for group in tables.group(results):
        console.print(tables.rich_table(group))


def print_result(result: Result, console: Console | None = None) -> None:
    """Print one result: the metric, what stands beside it, and the circumstances."""
    interval = f" (95 %: {tables.interval_of(result.interval)})" if result.interval else ""
    beside = [f"{name} {100 * value:.1f}" for name, value in result.metrics.items() if name != result.metric]
    lines = [
        " · ".join(beside),
        f"{tables.caption([result])} · {tables.duration(result.seconds)}",
        *tables.footnotes([result])[1:],
    ]
    console = console or Console()
    # Text, not markup: class names and paths may hold brackets.
    headline = f"{result.method}: {result.metric} {tables.with_deviation(result)} %{interval}"
    console.print(Text(headline, style="bold"))
    for line in filter(None, lines):
        console.print(Text(line, style="dim"))
