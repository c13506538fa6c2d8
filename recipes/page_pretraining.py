"""The tables of the small CLIP and of `icar.py` on the results page."""

from __future__ import annotations

import json
import math

from page_cells import RESULTS, stored, table, verdict

FORMAL = {"cifar10": ("CIFAR-10", 17.89, 19.45), "caltech101": ("Caltech-101", 2.21, 2.58)}


def small_clip() -> str:
    """Zero-shot top-1 of the small CLIP beside the paper's two models."""
    rows = []
    for name, (told, *paper) in FORMAL.items():
        for result in stored("small-clip", f"{name}.json"):
            value = 100 * (result.top1 or 0.0)
            low, high = (100 * edge for edge in result.top1_interval or (math.nan, math.nan))
            says = "above both" if low > max(paper) else "not above both"
            rows.append(
                [f"{told} ({result.n:,} images)", f"{value:.1f}", f"{low:.1f}–{high:.1f}", *map(str, paper), says]
            )
    return table(["", "ours", "95 %", "paper, B/32@224", "paper, B/16@112", ""], rows)


ICAR_ROWS = {
    "linear": "labels only, linear classifier", "cosine": "labels only, cosine classifier",
    "captions only": "captions only", "split heads": "both, split heads (linear)",
    "text classifier": "both, text classifier", "with descriptions": "both, text classifier, descriptions",
}  # fmt: skip
ICAR_COLUMNS = {"direct": "direct", "0-shot": "0"} | {
    f"{shots}-shot, {start} start": f"{shots}, {start}" for shots in (1, 4, 16) for start in ("text", "random")
}
Place = tuple[str, str]  # variant and column
SPLIT, TEXT, GLOSSED, CAPTIONS = "split heads", "text classifier", "with descriptions", "captions only"
SHOT = {shots: f"{shots}-shot, text start" for shots in (1, 4, 16)}
RANDOM = {shots: f"{shots}-shot, random start" for shots in SHOT}
ICAR_FINDINGS: list[tuple[str, str, Place, Place]] = [
    ("cosine over linear classifier, direct", "81.5 over 80.9", ("cosine", "direct"), ("linear", "direct")),
    ("text classifier over split heads, zero-shot", "37.7 over 35.1", (TEXT, "0-shot"), (SPLIT, "0-shot")),
    ("the same, 1-shot", "44.2 over 42.7", (TEXT, SHOT[1]), (SPLIT, SHOT[1])),
    ("the same, 4-shot", "55.8 over 54.9", (TEXT, SHOT[4]), (SPLIT, SHOT[4])),
    ("the same, 16-shot", "66.1 over 65.4", (TEXT, SHOT[16]), (SPLIT, SHOT[16])),
    ("the same, direct by text", "80.5 over 45.0", (TEXT, "direct"), (SPLIT, "direct, by text")),
    ("both tasks over captions alone, zero-shot", "39.1 over 31.4", (TEXT, "0-shot"), (CAPTIONS, "0-shot")),
    ("with descriptions over without, zero-shot", "39.1 over 37.7", (GLOSSED, "0-shot"), (TEXT, "0-shot")),
    *((f"text start over random, {k}-shot", "text start better", (TEXT, SHOT[k]), (TEXT, RANDOM[k])) for k in SHOT),
]


def icar_figures() -> dict[str, dict[str, tuple[float, float]]]:
    file = RESULTS / "icar.json"
    return json.loads(file.read_text())["results"] if file.exists() else {}


def icar() -> str:
    """The ablations of `icar.py`: mean ± standard deviation over three seeds, in per cent."""
    found = icar_figures()
    rows = [
        [told, *(f"{own[c][0]:.1f} ± {own[c][1]:.1f}" if c in own else "–" for c in ICAR_COLUMNS)]
        for name, told in ICAR_ROWS.items()
        if (own := found.get(name))
    ]
    return table(["trained on", *ICAR_COLUMNS.values()], rows)


def icar_findings() -> str:
    """iCAR's findings; a difference of two means counts from two standard errors (three seeds) on."""
    found, rows = icar_figures(), []
    for told, paper, one, other in ICAR_FINDINGS:
        pair = [found.get(variant, {}).get(column) for variant, column in (one, other)]
        if pair[0] and pair[1]:
            (a, sd_a), (b, sd_b) = pair[0], pair[1]
            margin = 2 * math.sqrt((sd_a**2 + sd_b**2) / 3)
            rows.append([told, paper, f"{a:.1f} over {b:.1f}", verdict(a - b - margin, a - b + margin)])
    return table(["finding", "paper", "ours", ""], rows, words=4)
