"""Numbers as they are read: shares as percentages, gains as points, seconds, counts."""

import math

from retroclip.evaluation import Result


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign: 0.873 → '87.3'."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A gain in points with its sign: 2.34 → '+2.3'."""
    if value is None or math.isnan(value):
        return "–"
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def interval_of(low_high: tuple[float, float] | None, *, signed: bool = False) -> str:
    """An interval of shares ('84.9–89.1') or, signed, of points ('+1.2 to +3.4')."""
    if low_high is None or any(map(math.isnan, low_high)):
        return "–"
    low, high = low_high
    return f"{points(low)} to {points(high)}" if signed else f"{percent(low)}–{percent(high)}"


def duration(seconds: float) -> str:
    """Seconds to read: '0.4 s', '12 s', '3 min 20 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


def count(number: int | None) -> str:
    """A count to read: '0', '12,345', '1.58 M'."""
    if number is None:
        return "–"
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def amount(number: float | None) -> str:
    """A count that may be a mean over seeds: '12', '12.3', '1,234'."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 or float(number).is_integer() else f"{number:,.1f}"


def with_deviation(result: Result) -> str:
    """The value as a percentage, ± the standard deviation over seeds where there are several."""
    deviation = f" ± {percent(result.sd)}" if result.sd is not None else ""
    return percent(result.value) + deviation
