"""`retroclip report`"""

from pathlib import Path

from retroclip.cli.terminal import say


def report(results: list[Path], /, *, out: Path) -> None:
    """Make one HTML page of results.

    Parameters
    ----------
    results
        Files that `retroclip compare --json` or `evaluate --json` wrote.
    out
        The HTML file.
    """
    from retroclip.evaluation import load_results
    from retroclip.report import Report, write_report

    loaded = [result for path in results for result in load_results(path)]
    write_report(Report(results=loaded), out)
    say(f"report: {out}")
