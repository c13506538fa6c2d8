"""`retroclip report`"""

from pathlib import Path

from retroclip.cli.terminal import say


def report(results: list[Path], /, *, out: Path) -> None:
    """Make one page, or one table, of results; other protocols, metrics, data or models get a table of their own.

    Parameters
    ----------
    results
        Files that `retroclip compare --json` or `evaluate --json` wrote, and folders of them (`evaluate --suite`).
    out
        What to write, by its name: .html (tables, plots, circumstances), .md, .csv, or .svg (all tasks as one plot).
    """
    from retroclip.evaluation.result import find_results
    from retroclip.report.files import write_as

    write_as(find_results(results), out)
    say(f"report: {out}")
