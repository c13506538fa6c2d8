"""The tables of `dense_results.py` on the results page."""

from __future__ import annotations

from statistics import mean, stdev

from dense_results import line
from page_cells import stored, table, with_interval

from retroclip.report.tables import percent


def protocols(*names: str) -> str:
    """Rows of `dense_results.py`."""
    lines = [line(name, result) for name in names for result in stored("protocols", f"{name}.json")[:1]]
    head = "| row | images | figures (95 % intervals) | baseline |\n| --- | ---: | --- | --- |"
    return "\n".join([head, *lines]) if lines else table([], [])


def detector_seeds(name: str) -> str:
    """AP50 of the classes that were never labelled, trained and untrained, by seed."""
    metrics = ("ap50-novel", "zero-shot-ap50-novel", "gain-ap50-novel")
    found = stored("protocols", f"{name}.json")
    rows = []
    for result in found:
        cells = [
            with_interval(result.metrics[m], result.intervals.get(m), signed=m.startswith("gain")) for m in metrics
        ]
        rows.append([str(result.options.get("seed", 0)), *cells])
    if len(found) > 1:
        columns = [[result.metrics[m] for result in found] for m in metrics]
        rows.append(["mean ± sd", *(f"{percent(mean(own))} ± {percent(stdev(own))}" for own in columns)])
    return table(["seed", "trained", "untrained, same proposals", "gain, paired"], rows)


def by_class(before: str, after: str) -> str:
    """Per-class values of two rows beside each other."""
    old, new = stored("protocols", f"{before}.json"), stored("protocols", f"{after}.json")
    if not (old and new):
        return table([], [])
    rows = [[name, percent(value), percent(new[0].per_class.get(name))] for name, value in old[0].per_class.items()]
    return table(["class", before, after], rows)
