"""The tables of `ra_clip.py` on the results page."""

from __future__ import annotations

import json
from typing import Any

from page_cells import RESULTS, gained, table, verdict, with_interval

PLAIN, OURS, LONG = "plain", "ra-clip", "ra-clip, length √d"
TASKS = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101", "intel-scenes": "scenes"}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS = {f"{task} at 0": f"zero-shot, {told}" for task, told in TASKS.items()}
ROWS |= {"flickr8k": "Flickr8k, image → text R@1", "probe intel-scenes": "linear probe, scenes"}
ROWS |= {"probe caltech101": "linear probe, Caltech-101"}
ABSTRACT = {"zero-shot": "+12.7, mean of ten sets", "linear probe": "+6.9, mean of ten sets"}
ROBUST = "section E: robust to poor retrieval, since the input's own embedding counts, too"


def figures() -> dict[str, dict[str, Any]]:
    file = RESULTS / "ra-clip.json"
    return json.loads(file.read_text())["variants"] if file.exists() else {}


def cell(one: dict[str, Any] | None) -> str:
    """A figure in % with its interval."""
    if one is None:
        return "–"
    low, high = one["interval"]
    return with_interval(one["value"] / 100, (low / 100, high / 100))


def gain(one: dict[str, Any] | None) -> str:
    return "–" if one is None or "gain" not in one else gained(one["gain"], tuple(one["gain_interval"]))


def ra_clip() -> str:
    """Every figure of plain CLIP and of RA-CLIP with the input at either length, with 95 % intervals."""
    found = figures()
    names = (PLAIN, OURS, LONG)
    rows = []
    for name, told in ROWS.items():
        plain, ours, long = (found.get(variant, {}).get(name) for variant in names)
        if plain and ours:
            rows.append([f"{told} ({plain['n']:,})", cell(plain), cell(ours), gain(ours), cell(long), gain(long)])
    head = ["", "plain CLIP", "RA-CLIP", "gain, 95 %", "RA-CLIP, length √d", "gain, 95 %"]
    return table(head, rows)


def ra_clip_random() -> str:
    """Zero-shot top-1 of RA-CLIP by the share of its neighbours that are random."""
    found = figures()
    rows = []
    for task, told in TASKS.items():
        for variant, length in ((OURS, "1"), (LONG, "√d")):
            own = found.get(variant, {})
            if all(f"{task} at {share:g}" in own for share in SHARES):
                alone = own[f"{task} at 0"]["baselines"]["top1"]
                shown = [f"{own[f'{task} at {share:g}']['value']:.1f}" for share in SHARES]
                plain = f"{found[PLAIN][f'{task} at 0']['value']:.1f}"
                rows.append([told, length, *shown, f"{100 * alone:.1f}", plain])
    shares = [f"{100 * share:.0f} % random" for share in SHARES]
    return table(["", "length", *shares, "its tower alone", "plain CLIP"], rows, words=2)


def ra_clip_findings() -> str:
    """The paper's claims beside ours: a difference counts where its paired 95 % interval leaves out 0."""
    own = figures().get(OURS, {})
    rows = []
    for name, told in ROWS.items():
        kind = told.split(",")[0]
        if name in own and kind in ABSTRACT:
            rows.append([f"over CLIP: {told}", f"abstract: {ABSTRACT[kind]}", *judged(own[name])])
    for share in SHARES[1:-1]:
        for task, told in TASKS.items():
            if one := own.get(f"{task} at {share:g}"):
                rows.append([f"over CLIP with {100 * share:.0f} % random neighbours: {told}", ROBUST, *judged(one)])
    return table(["finding", "paper", "ours, 95 %", ""], rows, words=4)


def judged(one: dict[str, Any]) -> list[str]:
    return [gain(one), verdict(*one["gain_interval"])]
