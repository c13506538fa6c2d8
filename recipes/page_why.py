"""The tables of `why_general.py` on the results page."""

from __future__ import annotations

import json
from typing import Any

from page_cells import RESULTS, gained, table
from why_general import METHODS

from retroclip.report.figures import percent, points

MOVED = {
    "won": "won",
    "lost": "lost",
    "lost of unnamed": "by classes that no pair names",
    "lost to named": "to classes that pairs name",
}


def records() -> dict[str, dict[str, Any]]:
    """What is stored, by task and split."""
    file = RESULTS / "why-general.json"
    return json.loads(file.read_text()) if file.exists() else {}


def cell(gain: list[float] | None) -> str:
    return "–" if gain is None else gained(gain[0], (gain[1], gain[2]))


def known(one: dict[str, Any]) -> list[str]:
    """The methods that are stored, in their order."""
    return [name for name in METHODS if name in one["methods"]]


def why_circumstances() -> str:
    """What was asked, and how much the memory says of the task."""
    lines = [
        f"- {key}: {one['n']:,} photos, {one['metric']}, zero-shot {percent(one['zero_shot'])}, model {one['model']}; "
        f"{one['naming']:,} of {one['memory_pairs']:,} pairs name one of {one['named_classes']} of the "
        f"{one['classes']} classes, {one['showing']:,} show it, of {one['shown_classes']} classes"
        for key, one in records().items()
    ]
    return "\n".join(lines) or table([], [])


def why_parts() -> str:
    """What each part of the images adds to a method's gain: two tables a split, a method a row."""
    tables = []
    for key, one in records().items():
        for of, parts in one["parts"].items():
            about = [f"{part} ({row['photos']:,}, {row['right']:.1f})" for part, row in parts.items()]
            rows = [
                [name, cell(own["gain"]), *(cell(own["parts"][of][part]) for part in parts)]
                for name in known(one)
                if (own := one["methods"][name])
            ]
            tables.append(table([f"{key}, {of}", "all", *about], rows))
    return "\n\n".join(tables) or table([], [])


def why_moved() -> str:
    """Points won and lost, how many of these by classes without pairs and to ones with pairs, and who takes most."""
    rows = []
    for key, one in records().items():
        for name in known(one):
            moved = one["methods"][name]["moved"]
            takers = (f"{own['class']} {own['points']:.1f} ({own['pairs']}, {own['shown']})" for own in moved["takers"])
            rows.append([key, name, ", ".join(takers), *(f"{moved[what]:.1f}" for what in MOVED)])
    return table(["images", "method", "to (pairs, of which show it)", *MOVED.values()], rows, words=3)


def why_classes(*names: str) -> str:
    """The classes that lose most by a method, and what their neighbours' captions say."""
    rows = []
    for key, one in records().items():
        for name in names or known(one):
            for row in one["methods"].get(name, {}).get("worst", []):
                said = "; ".join(f"“{text}”" for text in row["captions"])
                taken = ", ".join(row["taken for"]) or "–"
                pairs = f"{row['pairs']} ({row['shown']})"
                rows.append([key, name, f"{row['class']} ({row['photos']})", points(row["change"]), pairs, taken, said])
    head = ["images", "method", "class (photos)", "change", "pairs (show it)", "lost ones taken for", "captions near"]
    return table(head, rows, words=7)
