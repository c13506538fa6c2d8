"""The tables of `dense_results.py` on the results page."""

from __future__ import annotations

from statistics import mean, stdev

from dense_results import line
from page_cells import stored, table, with_interval

from retroclip.report.figures import percent


def protocols(*names: str) -> str:
    """Rows of `dense_results.py`."""
    lines = [line(name, result) for name in names for result in stored("protocols", f"{name}.json")[:1]]
    head = "| row | images | figures (95 % intervals) | baseline |\n| --- | ---: | --- | --- |"
    return "\n".join([head, *lines]) if lines else table([], [])


COMPARISONS = {
    "{}": "trained",
    "zero-shot-{}": "untrained",
    "gain-{}": "gain, paired",
    "grid-{}": "untrained, on the grid",
    "gain-over-grid-{}": "gain over that, paired",
}
"""What a training protocol may tell of a metric, and its column."""


def by_seed(name: str, metric: str) -> str:
    """A metric of a row that was measured once a seed: trained, untrained, and the gains."""
    found = stored("protocols", f"{name}.json")
    named = {form.format(metric): head for form, head in COMPARISONS.items()}
    columns = {m: head for m, head in named.items() if all(m in result.metrics for result in found)}
    rows = []
    for result in found:
        cells = [
            with_interval(result.metrics[m], result.intervals.get(m), signed=m.startswith("gain")) for m in columns
        ]
        rows.append([str(result.options["seed"]), *cells])
    if len(found) > 1:
        values = [[result.metrics[m] for result in found] for m in columns]
        rows.append(["mean ± sd", *(f"{percent(mean(own))} ± {percent(stdev(own))}" for own in values)])
    return table(["seed", *columns.values()], rows)


def by_class(before: str, after: str) -> str:
    """Per-class values of two rows beside each other."""
    old, new = stored("protocols", f"{before}.json"), stored("protocols", f"{after}.json")
    if not (old and new):
        return table([], [])
    rows = [[name, percent(value), percent(new[0].per_class.get(name))] for name, value in old[0].per_class.items()]
    return table(["class", before, after], rows)
