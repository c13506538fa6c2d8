"""The tables of `systems.py` and `ablations.py` on the results page."""

from __future__ import annotations

import json
from typing import Any

from memories import CONDITIONS, TASKS
from orderings import ORDERINGS, ZERO_SHOT, Ordering
from page_cells import OPEN, REFUTED, RESULTS, SUPPORTED, gained, stored, table, verdict

from retroclip.evaluation import Result
from retroclip.report.figures import percent, with_deviation
from retroclip.report.tables import caption

NOTHING = "–"


def systems(task: str) -> str:
    """One task: a method a row, and for each memory the value and the gain over zero-shot."""
    found = {condition: stored("systems", f"{task}-{condition}.json") for condition in CONDITIONS}
    found = {condition: results for condition, results in found.items() if results}
    by_name = {condition: {result.method: result for result in results} for condition, results in found.items()}
    names = list(dict.fromkeys(name for own in by_name.values() for name in own))
    head = ["method", *(cell for condition in found for cell in (condition, "gain, 95 %"))]
    rows = [[name, *(cell for own in by_name.values() for cell in measured(own.get(name)))] for name in names]
    told = [f"- {condition}: {caption(results)}" for condition, results in found.items()]
    return "\n".join([table(head, rows), "", *told])


def measured(result: Result | None) -> tuple[str, str]:
    """Value ± deviation, and the gain over zero-shot with its interval."""
    if result is None or result.value is None:
        return ("–", "–") if result is None else ("failed", "–")
    return with_deviation(result), gained(result.gain, result.gain_interval)


def controls() -> str:
    """What training gains over the best method that trains nothing, by task and memory, and how often."""
    rows, counted = [], dict[str, dict[str, int]]()
    for task in TASKS:
        for condition in CONDITIONS:
            for result in stored("systems", f"{task}-{condition}.json"):
                if result.control_gain is None or result.control_gain_interval is None:
                    continue
                says = verdict(*result.control_gain_interval)
                tally = counted.setdefault(result.method, dict.fromkeys((SUPPORTED, REFUTED, OPEN), 0))
                tally[says] += 1
                gain = gained(result.control_gain, result.control_gain_interval)
                rows.append([task, condition, result.method, str(result.control), gain, shown(says)])
    head = ["task", "memory", "method", "best control", "over it, 95 %", ""]
    summary = [
        f"- {method}: above the best control in {tally[SUPPORTED]} of {sum(tally.values())}, below it in "
        f"{tally[REFUTED]}, neither in {tally[OPEN]}"
        for method, tally in counted.items()
    ]
    return "\n".join([*summary, "", table(head, rows, words=4)])


def elsewhere() -> str:
    """What models made for one task do on others: the change against the base, with its interval."""
    found = [r for t in TASKS for c in CONDITIONS for r in stored("systems", f"{t}-{c}.json") if r.forgetting]
    if not found:
        return table([], [])
    head = [f"{one.task} ({one.n:,} photos, {percent(one.base)})" for one in found[0].forgetting]
    rows = [[f"{r.method} ({r.memory})", *(gained(one.change, one.interval) for one in r.forgetting)] for r in found]
    return table(["method (memory)", *head], rows)


def shown(says: str) -> str:
    return {SUPPORTED: "above", REFUTED: "below", OPEN: ""}[says]


def records() -> list[dict[str, Any]]:
    """Every task's ablations, as stored."""
    return [json.loads(file.read_text()) for name in TASKS if (file := RESULTS / "ablations" / f"{name}.json").exists()]


def ablations(*prefixes: str) -> str:
    """The groups whose name starts with one of the prefixes ("_" for a space): a table a group, two columns a task."""
    found = records()
    cells = {(row["group"], row["variant"], one["task"]): row for one in found for row in one["rows"]}
    wanted = tuple(prefix.replace("_", " ") for prefix in prefixes) or ("",)
    parts = []
    for group in dict.fromkeys(group for group, _, _ in cells if group.startswith(wanted)):
        tasks = [one["task"] for one in found if any(g == group and t == one["task"] for g, _, t in cells)]
        head = [group, *(cell for task in tasks for cell in (task, "gain, 95 %"))]
        variants = dict.fromkeys(variant for g, variant, _ in cells if g == group)
        rows = [[v, *(c for task in tasks for c in ablated(cells.get((group, v, task))))] for v in variants]
        parts.append(table(head, rows))
    return "\n\n".join(parts) or table([], [])


def ablated(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "–", "–"
    spread = f" ± {percent(row['sd'])}" if row["sd"] is not None else ""
    return f"{percent(row['value'])}{spread}", gained(row["gain"], tuple(row["interval"]))


def ablation_circumstances() -> str:
    """What the tables of `ablations` were measured on."""
    lines = []
    for one in records():
        sizes = {row["memory"]: row["memory_pairs"] for row in one["rows"]}
        pairs = ", ".join(f"{memory} memory {count:,} pairs" for memory, count in sizes.items())
        lines.append(
            f"- {one['task']}: {one['n']:,} images of `{one['split']}`, {one['metric']}, {one['templates']} template(s)"
            f", model {one['model']}, {pairs}, zero-shot {percent(one['zero_shot'])}"
        )
    return "\n".join(lines) or table([], [])


def ablation_findings() -> str:
    """The papers' orderings: the paired difference on each task and what it says, and reasons where we disagree."""
    found = records()
    rows, reasons = [], list[str]()
    for order in ORDERINGS:
        cells = [said(difference(record, order)) for record in found]
        if any(cell != NOTHING for cell in cells):
            rows.append([f"{order.group}: {order.better} over {order.worse}", order.paper, *cells])
        if order.reason and any(cell.endswith(REFUTED) for cell in cells):
            reasons.append(f"- {order.paper}: {order.reason}")
    told = table(["ordering", "paper", *(one["task"] for one in found)], rows, words=2)
    return "\n".join([told, "", *dict.fromkeys(reasons)]) if reasons else told


def difference(record: dict[str, Any], order: Ordering) -> tuple[float, tuple[float, float]] | None:
    """One task's paired difference of an ordering, with its interval; over zero-shot that is a row's gain."""
    if order.worse == ZERO_SHOT:
        for row in record["rows"]:
            if (row["group"], row["variant"]) == (order.group, order.better):
                return row["gain"], tuple(row["interval"])
    for one in record["orderings"]:
        if (one["group"], one["better"], one["worse"]) == (order.group, order.better, order.worse):
            return one["difference"], tuple(one["interval"])
    return None


def said(one: tuple[float, tuple[float, float]] | None) -> str:
    """A paired difference, and what its interval says of the finding that it is above 0."""
    return NOTHING if one is None else f"{gained(*one)}, {verdict(*one[1])}"
