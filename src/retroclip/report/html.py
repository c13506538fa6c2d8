"""The HTML report: one self-contained file, no scripts, nothing loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from retroclip.errors import BadImageError
from retroclip.evaluation import Result
from retroclip.files import write_whole
from retroclip.report import figures, notes, plots, tables
from retroclip.report.evidence import Example, MemorySummary, RetrievedClass
from retroclip.report.groups import BASE, group, leading, tell_apart
from retroclip.report.labels import by_row, row_labels, settings, settings_differ
from retroclip.report.mistakes import (
    Changes,
    ConfusedImages,
    ConfusionRow,
    WorstClass,
    confusion_rows,
    worst_classes,
)
from retroclip.report.overview import overview

THUMBNAIL = 128


@dataclass
class Report:
    """All that a report may show; only `results` is needed. Texts may come from anywhere: they are escaped."""

    results: Sequence[Result]
    title: str = ""
    introduction: str = ""
    examples: Sequence[Example] = ()
    examples_method: str = ""
    changes: Changes | None = None
    confused: Sequence[ConfusedImages] = ()
    retrieved: Sequence[RetrievedClass] = ()
    memories: Sequence[MemorySummary] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Bar:
    """Positions on a row's axis in per cent of its width."""

    value: float
    low: float
    high: float


@dataclass
class Section:
    """One table of the report, of one group of results; `labels` and `bars` are aligned to its rows.

    `best` has the highest value; it is `crowned` where all rows were measured under the same settings, and only then
    `base`, zero-shot, is what all can be compared with. `added` tells the table from another one of the same names.
    """

    results: list[Result]
    labels: list[str] = field(default_factory=list)
    added: Sequence[str] = ()
    axis: tuple[float, float] = (0.0, 1.0)
    base: Result | None = None
    best: Result | None = None
    crowned: bool = False
    bars: list[Bar | None] = field(default_factory=list)
    gains: Markup | None = None
    gains_left_out: int = 0
    confusions: list[ConfusionRow] = field(default_factory=list)
    worst: list[WorstClass] = field(default_factory=list)
    curves: Markup | None = None

    def label(self, result: Result) -> str:
        """What a row of the table is called."""
        return next(name for name, own in zip(self.labels, self.results, strict=True) if own is result)

    def bar(self, result: Result) -> Bar | None:
        """Where a row lies on the axis."""
        return next(bar for bar, own in zip(self.bars, self.results, strict=True) if own is result)


def render(report: Report) -> str:
    """The report as an HTML document."""
    environment = Environment(
        loader=PackageLoader("retroclip.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": figures.percent,
        "points": figures.points,
        "interval": figures.interval_of,
        "duration": figures.duration,
        "count": figures.count,
        "amount": figures.amount,
        "thumbnail": thumbnail,
        "deviation": figures.with_deviation,
        "data_name": tables.data_name,
    }
    environment.globals |= {
        "caption": tables.caption,
        "shared_notes": notes.shared_notes,
        "row_notes": notes.row_notes,
        "forgetting_remedy": notes.forgetting_remedy,
        "circumstances": circumstances,
        "measured_on": tables.measured_on,
        "side_metrics": tables.side_metrics,
        "side_value": tables.side_value,
        "leading": leading,
    }
    table = overview(report.results)
    drawn = Markup(plots.plot_overview(table)) if table is not None else None
    groups = group(report.results)
    sections = [make_section(own, added) for own, added in zip(groups, tell_apart(groups), strict=True)]
    with_memory = bool(report.results) and all(r.memory for r in report.results)
    title = report.title or ("What a memory gains" if with_memory else "Results")
    return environment.get_template("report.html").render(
        title=title, report=report, sections=sections, overview=table, overview_plot=drawn,
        several_models=len({result.model for result in report.results}) > 1,
    )  # fmt: skip


def write_report(report: Report, path: str | Path) -> Path:
    """Render and write; the file appears under its name only when whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(report))
    return path


def make_section(results: Sequence[Result], added: Sequence[str] = ()) -> Section:
    """Work out a group's axis, bars and plots."""
    section = Section(results=list(results), labels=row_labels(results), added=added)
    done = [result for result in results if result.value is not None]
    if not done:
        return section
    section.axis = axis_of(done)
    section.bars = [None if result.value is None else bar_of(result, section.axis) for result in results]
    section.best = max(done, key=lambda result: result.value or 0.0)
    section.crowned = not settings_differ(done)
    bases = [result for result in done if result.method == BASE]
    section.base = bases[0] if section.crowned and len(bases) == 1 else None
    other = section.base if section.base is not section.best else None
    if other is not None:
        gains = plots.per_class_gains(other, section.best)
        section.gains_left_out = len(gains) - len(plots.shown_gains(gains))
        # Markup: matplotlib has escaped the class names already.
        section.gains = Markup(plots.plot_gains(gains)) if gains else None
    section.confusions, section.worst = confusion_rows(section.best, other), worst_classes(section.best, other)
    trained = [result for result in done if any("loss" in row for row in result.history)]
    section.curves = Markup(plots.plot_curves(trained, [section.label(r) for r in trained])) if trained else None
    return section


def axis_of(results: Sequence[Result]) -> tuple[float, float]:
    """The ends of the common axis, in steps of 10 %, around all intervals."""
    lows = [result.interval[0] if result.interval else result.value or 0.0 for result in results]
    highs = [result.interval[1] if result.interval else result.value or 0.0 for result in results]
    # Rounded first: 10 · 0.7 is a little over 7.
    low, high = math.floor(round(10 * min(lows), 6)) / 10, math.ceil(round(10 * max(highs), 6)) / 10
    return (low, high) if high > low else (max(0.0, round(high - 0.1, 1)), max(0.1, high))


def bar_of(result: Result, axis: tuple[float, float]) -> Bar:
    """Where the value and its interval lie on the axis."""
    assert result.value is not None
    low, high = result.interval or (result.value, result.value)
    return Bar(*(round(100 * (x - axis[0]) / (axis[1] - axis[0]), 2) for x in (result.value, low, high)))


def thumbnail(image: bytes | None, size: int = THUMBNAIL) -> Markup | None:
    """An image as a small JPEG data URI, or None where there is none or it can't be read."""
    from retroclip.pairs import decode_image

    if image is None:
        return None
    try:
        picture = decode_image(image)
    except BadImageError:
        return None
    picture.thumbnail((2 * size, 2 * size))  # twice the size shown: sharp on dense screens
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return Markup("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())


def circumstances(section: Section) -> list[tuple[str, Any]]:
    """What the figures of a section depend on, as labelled lines; of each row, where rows differ."""
    first = leading(section.results)
    seeds = max((r.seeds for r in section.results), key=len)
    done = [(label, r) for label, r in zip(section.labels, section.results, strict=True) if r.error is None]

    def of_rows(text: Callable[[Result], str | None]) -> str:
        return "; ".join(by_row([label for label, _ in done], [text(result) for _, result in done]))

    lines: list[tuple[str, Any]] = [
        ("Model", first.model),
        ("Model fingerprint", first.fingerprint),
        ("Precision", of_rows(lambda r: r.precision)),
        ("Data", f"{tables.data_name(first)}, {first.n:,} images, hash {first.data_hash}"),
        ("Task", f"{first.task}, protocol {first.protocol}, metric {first.metric}"),
        ("Templates", of_rows(lambda r: " · ".join(r.templates))),
        ("Memory", first.memory and f"{first.memory}, {figures.count(first.memory_pairs)} pairs"),
        ("Near-duplicates left out of the memory", first.excluded_near_duplicates),
        ("Classes without an image", ", ".join(first.missing_classes)),
        ("Images left out as unreadable", "; ".join(first.rejected)),
        ("Seeds of trained methods", ", ".join(map(str, seeds))),
        ("Options", "; ".join(f"{label}: {text}" for label, r in done if (text := settings(r.options)))),
        ("Versions", of_rows(lambda r: ", ".join(f"{name} {version}" for name, version in r.versions.items()))),
        ("Date", of_rows(lambda r: r.date)),
    ]
    return [(name, value) for name, value in lines if value not in (None, "")]
