"""What a reader must know beside the figures of a table."""

from collections.abc import Sequence

from retroclip.evaluation import Result
from retroclip.evaluation.result import REFERENCES
from retroclip.evaluation.training_set import MARK
from retroclip.report.figures import interval_of, percent, points
from retroclip.report.labels import row_labels, settings_differ

# What trained detectors and segmenters are compared with: told below the table, not a column each.
COMPARED = ("zero-shot-", "grid-", "gain-")

AVERAGED = "-averaged"


def footnotes(results: Sequence[Result]) -> list[str]:
    """What a reader must know beside the figures: `shared_notes`, then `row_notes`."""
    return shared_notes(results) + row_notes(results)


def shared_notes(results: Sequence[Result]) -> list[str]:
    """What holds for all rows of a table."""
    notes = ["Intervals: 95 %, bootstrap over the images."]
    if any(r.gain is not None for r in results):
        notes.append("Gains are over zero-shot, in percentage points, their intervals paired.")
    if controls := list(dict.fromkeys(r.control for r in results if r.control)):
        notes.append(f"Over control: the same over the best method that trains nothing ({', '.join(controls)}).")
    if settings_differ(results):
        notes.append("Rows differ in settings: none of them is called the best.")
    return notes + [text for texts in _told(results) if len(own := set(texts.values())) == 1 for text in own if text]


def row_notes(results: Sequence[Result]) -> list[str]:
    """What isn't the same for all rows of a table, a line for each row that has something to say."""
    lines = []
    differing = [texts for texts in _told(results) if len(set(texts.values())) > 1]
    for position, label in enumerate(row_labels(results)):
        if own := [texts[position] for texts in differing if texts.get(position)]:
            lines.append(f"{label}: {' '.join(own)}")
    return lines


def _told(results: Sequence[Result]) -> list[dict[int, str]]:
    """Each kind of note by the position of the rows that didn't fail; of a memory only for rows that read one."""
    done = {position: result for position, result in enumerate(results) if result.error is None}
    reading = {position: r for position, r in done.items() if r.excluded_near_duplicates is not None}
    kinds = (_missing, _baseline, _other_intervals, _compared, _rejected, _unlabelled)
    return [
        {position: _excluded(r) for position, r in reading.items()},
        *({position: told(r) for position, r in done.items()} for told in kinds),
    ]


def _excluded(result: Result) -> str:
    consulted = REFERENCES if result.memory == REFERENCES else "memory"
    # A memory may keep images of some pairs only; of reference sets, older ones keep no thumbnails.
    alone, both = " alone: it keeps no thumbnails", ", and alike as thumbnails where there are images"
    return (
        f"{result.excluded_near_duplicates:,} of the {consulted}'s pairs were left out as near-duplicates of "
        f"evaluation images (cosine over {result.near_threshold}{alone if result.near_thumbnails is False else both})."
    )


def _missing(result: Result) -> str:
    missing = len(result.missing_classes)
    return f"{missing} classes of the task have no evaluation image." if missing else ""


def _baseline(result: Result) -> str:
    shown = ", ".join(f"{name} {percent(value)}" for name, value in result.baselines.items())
    return f"Baseline, {result.baseline}: {shown}." if result.baseline else ""


def _other_intervals(result: Result) -> str:
    others = {name: value for name, value in result.intervals.items() if not name.startswith(COMPARED)}
    shown = ", ".join(f"{name} {interval_of(value)}" for name, value in others.items())
    return f"95 % intervals of the others: {shown}." if others else ""


def _compared(result: Result) -> str:
    compared = [compared_text(result, name) for name in result.metrics if name.startswith(COMPARED)]
    return f"Beside it: {', '.join(compared)}." if compared else ""


def _rejected(result: Result) -> str:
    rejected = len(result.rejected)
    return f"{rejected} evaluation images{_parts(result)} could not be used and were left out." if rejected else ""


def _unlabelled(result: Result) -> str:
    return f"{result.unlabelled:,} images without a label were left out." if result.unlabelled else ""


def compared_text(result: Result, name: str) -> str:
    """A figure of the untrained model, or the gain over it in points, with its interval where there is one."""
    value, interval = result.metrics[name], result.intervals.get(name)
    if not name.startswith("gain-"):
        return f"{name} {percent(value)}" + (f" ({interval_of(interval)})" if interval else "")
    low_high = (100 * interval[0], 100 * interval[1]) if interval else None
    shown = f" ({interval_of(low_high, signed=True)})" if low_high else ""
    return f"{name} {points(100 * value)}{shown} points"


def _parts(result: Result) -> str:
    """What else than whole images a protocol rejects."""
    parts = {"regions": " or boxes", "detection": " or boxes", "segmentation": " or masks"}.get(result.protocol, "")
    training = sum(reason.startswith(MARK) for reason in result.rejected)
    return f"{parts} ({training} of them in the training set)" if training else parts


def notes_below(results: Sequence[Result]) -> list[str]:
    """All that stands below a table: `footnotes`, `forgetting`, and why methods failed."""
    failures = [f"{r.method} failed: {r.error}" for r in results if r.error is not None]
    return [*footnotes(results), *forgetting(results), *failures]


def forgetting(results: Sequence[Result]) -> list[str]:
    """What each tuned model gives on tasks that it was not made for, a line a row, and `forgetting_remedy`."""
    lines = []
    for result, label in zip(results, row_labels(results), strict=True):
        changes = [
            f"{row.task} ({row.dataset.removesuffix('#all')}) {percent(row.base)} to {percent(row.value)},"
            f" {points(row.change)} points ({interval_of(row.interval, signed=True)})"
            for row in result.forgetting
        ]
        if changes:
            lines.append(f"{label} elsewhere: {'; '.join(changes)}.")
    return lines + forgetting_remedy(results)


def forgetting_remedy(results: Sequence[Result]) -> list[str]:
    """What to try where a tuned model loses elsewhere by more than chance, unless it was tried."""
    lost = any(row.interval is not None and row.interval[1] < 0 for r in results for row in r.forgetting)
    if not lost or any(r.method.endswith(AVERAGED) for r in results):
        return []
    return [f"A tuned model forgets less halfway back to its base in weight space: --methods '*{AVERAGED}'."]
