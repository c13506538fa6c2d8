"""What a row is called: its method, and the settings in which it differs from its neighbours."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from retroclip.evaluation import Result
from retroclip.tasks.templates import asks_description

# Counted, chosen on data or kept by a suite for itself: no settings that anybody asked for.
FOUND = frozenset([
    "boxes", "clipped", "ignored", "detections", "without_mask", "captions", "left_out", "chosen", "suite",
    "train_hash", "train_also_evaluated", "train_near_duplicates", "shots",
])  # fmt: skip
# Of a data set or memory: these differ from one column of an overview to the next anyway, and are told there.
OF_THE_DATA = frozenset(["train", "templates", "memory_pairs", "near_threshold", "seeds"])


def traits(result: Result) -> dict[str, Any]:
    """The settings of a result that may tell it from another one of its table; of a failed one only its options."""
    own = {name: value for name, value in result.options.items() if name not in FOUND and name != "seed"}
    if result.error is not None:
        return own
    seed = result.options.get("seed") if result.seed is None else result.seed
    known: dict[str, Any] = {
        "precision": result.precision,
        "templates": result.templates,
        "memory_pairs": result.memory_pairs,
        "near_threshold": result.near_threshold,
        "seeds": result.seeds or ([] if seed is None else [seed]),
    }
    return dict(sorted(own.items())) | {name: value for name, value in known.items() if value not in (None, [])}


def varying(results: Sequence[Result], *, absent: bool = False) -> set[str]:
    """The traits that differ among results; with `absent` also those that only some have."""
    told = [traits(result) for result in results if result.error is None]
    names = {name for own in told for name in own}
    return {
        name
        for name in names
        if len({json.dumps(own[name], sort_keys=True, default=str) for own in told if name in own}) > 1
        or (absent and any(name not in own for own in told))
    }


def common_settings(results: Sequence[Result], result: Result) -> set[str]:
    """The traits that concern all rows of a table whatever their method, and that differ among those that have them.

    Such are a protocol's options (which proposals, which features); in classification, options are each method's own.
    So are seeds everywhere.
    """
    common = varying([other for other in results if other.protocol == result.protocol]) - {"seeds"}
    if result.protocol == "classification":
        common &= {"precision", "templates", "memory_pairs", "near_threshold"}
    return common


def settings_differ(results: Sequence[Result]) -> bool:
    """Whether rows of one table were measured under different settings of their protocol: none of them is the best."""
    return any(common_settings(results, result) for result in results if result.error is None)


def row_labels(results: Sequence[Result], also: Mapping[int, Collection[str]] | None = None) -> list[str]:
    """A name for each row of a table, no two alike: "zero-shot", or "zero-shot, proposals truth" beside another one.

    `also` are further traits to name, by the position of the row.
    """
    labels = []
    for position, result in enumerate(results):
        own = [other for other in results if other.method == result.method]
        told = common_settings(results, result) | varying(own, absent=True) | set((also or {}).get(position, ()))
        known = traits(result)
        words = [spelled_setting(name, known[name]) for name in known if name in told]
        labels.append(", ".join([result.method, *words]))
    return _numbered(_dated(labels, results))


def _dated(labels: list[str], results: Sequence[Result]) -> list[str]:
    """Rows of the same name with their date, where that tells any of them apart."""
    dates: dict[str, set[str]] = {}
    for label, result in zip(labels, results, strict=True):
        dates.setdefault(label, set()).add(result.date)
    return [f"{label}, {r.date}" if len(dates[label]) > 1 else label for label, r in zip(labels, results, strict=True)]


def _numbered(labels: list[str]) -> list[str]:
    often, met = Counter(labels), Counter[str]()
    numbered = []
    for label in labels:
        met[label] += 1
        numbered.append(f"{label} ({met[label]})" if often[label] > 1 else label)
    return numbered


def spelled_setting(name: str, value: Any) -> str:
    """A trait in words: "proposals truth", "no smoothing", "seeds 0, 1, 2", "80 templates"."""
    if name in SPELLED:
        return SPELLED[name](value)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {'unset' if value is None else spelled(value)}"


def templates_in_words(templates: Sequence[str]) -> str:
    """A template itself; of several how many, and whether descriptions follow the names."""
    if len(templates) == 1:
        return f"template “{templates[0]}”"
    return f"{len(templates)} templates{' with descriptions' if any(map(asks_description, templates)) else ''}"


SPELLED: dict[str, Callable[[Any], str]] = {
    "templates": templates_in_words,
    "precision": str,
    "seeds": lambda own: f"seed{'s' if len(own) > 1 else ''} {', '.join(map(str, own))}",
    "memory_pairs": lambda pairs: f"{pairs:,} pairs",
    "near_threshold": lambda cosine: f"near-duplicates over {cosine:g}",
    "train": lambda path: f"train {Path(str(path)).name}",
    "proposals": lambda source: f"proposals {Path(str(source)).name}",
    "network": lambda source: f"network {Path(str(source)).name}",
    "network_fingerprint": lambda mark: f"of fingerprint {str(mark)[:8]}",
}


def settings(options: Mapping[str, Any]) -> str:
    """Options as words: `k 16, search t2t, t2i`; what a suite keeps for itself is left out."""
    shown = {name: value for name, value in options.items() if name != "suite" and value not in (None, [], {}, "")}
    return ", ".join(f"{name} {spelled(value)}" for name, value in shown.items())


def spelled(value: Any) -> str:
    """The value of an option in words."""
    if isinstance(value, Mapping):
        return "(" + settings(value) + ")"
    if isinstance(value, list | tuple):
        return " and ".join(map(spelled, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def by_row(labels: Sequence[str], texts: Sequence[str | None]) -> list[str]:
    """What is said of each row, once where it is the same for all of them; nothing of rows without a text."""
    if len(set(texts)) == 1:
        return [text for text in texts[:1] if text]
    return [f"{label}: {text}" for label, text in zip(labels, texts, strict=True) if text]
