"""How far long work is: a bar on a terminal, a line a minute in a log; for those who asked to be shown it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

BAR_SECONDS = 2.0
"""What is done sooner needs no bar."""
LOG_SECONDS = 60.0

Total = int | Callable[[], int | None]
"""How many there are in all; what takes time to find out, or nobody knows (None), is a function, asked when shown."""

_SHOWN: ContextVar[bool] = ContextVar("encodings_shown", default=False)


class Show(Protocol):
    """Takes how many are done by now, and how many of them were rejected where that is counted."""

    def __call__(self, done: int, rejected: int | None = None) -> None: ...


@contextmanager
def encodings_shown(shown: bool = True) -> Iterator[None]:
    """Inside, each encoding shows on stderr how far it is, whoever asks for it; with `shown=False` none does."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def counted(total: Total, what: str) -> Iterator[Callable[[int], None]]:
    """A function to be told of so many rows more, `total` in all; `encodings_shown` shows them.

    Encodings inside are parts of the same work, and show nothing of their own.
    """
    if not _SHOWN.get():
        yield lambda rows: None
        return
    with encodings_shown(False), progress(total, "encoding", what) as show:
        done = 0

        def tell(rows: int) -> None:
            nonlocal done
            done += rows
            show(done)

        yield tell


@contextmanager
def progress(total: Total, doing: str, what: str) -> Iterator[Show]:
    """Shows on stderr how many of `total` pairs, rows or `what` they are have been done."""
    asked = cache(total) if callable(total) else lambda: total
    with (_bar if sys.stderr.isatty() else _log)(asked, doing, what) as show:
        yield show


@contextmanager
def _bar(total: Callable[[], int | None], doing: str, what: str) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    task, start = bar.add_task(doing, total=None, told=""), time.monotonic()

    def show(done: int, rejected: int | None = None) -> None:
        seconds = time.monotonic() - start
        if seconds < BAR_SECONDS:
            return
        expected = total()
        rate = f"{done / seconds:,.0f} {what}/s" if seconds else what
        known = None if expected is None else max(expected, done)
        bar.update(task, completed=done, total=known, told=rate + _rejected(rejected))
        bar.start()

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def _log(total: Callable[[], int | None], doing: str, what: str) -> Iterator[Show]:
    """Writes a line every `LOG_SECONDS`; what is done by then asks for no total either."""
    since, before = time.monotonic(), 0

    def show(done: int, rejected: int | None = None) -> None:
        nonlocal since, before
        seconds = time.monotonic() - since
        if seconds < LOG_SECONDS:
            return
        rate = (done - before) / seconds
        of, left, expected = "", "", total()
        if expected is not None and expected > done:
            of = f" of {expected:,}"
            left = f", {timedelta(seconds=round((expected - done) / rate))} left" if rate else ""
        line = f"{doing}: {done:,}{of} {what}, {rate:,.0f} {what}/s{_rejected(rejected)}{left}"
        print(line, file=sys.stderr, flush=True)
        since, before = time.monotonic(), done

    yield show


def _rejected(count: int | None) -> str:
    return "" if count is None else f", {count:,} rejected"
