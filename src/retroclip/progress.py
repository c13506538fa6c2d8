"""How far an encoding is: a bar on a terminal, a line a minute in a log; for those who asked to be shown it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

BAR_SECONDS = 2.0
"""What is done sooner needs no bar."""
LOG_SECONDS = 60.0

_SHOWN: ContextVar[bool] = ContextVar("encodings_shown", default=False)


@contextmanager
def encodings_shown(shown: bool = True) -> Iterator[None]:
    """Inside, each encoding shows on stderr how far it is, whoever asks for it; with `shown=False` none does."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def counted(total: int | Callable[[], int | None], what: str) -> Iterator[Callable[[int], None]]:
    """A function to be told of so many rows more, `total` in all; `encodings_shown` shows them.

    A total that takes time to find out, or that nobody knows (None), is a function, called where it is shown.

    Encodings inside are parts of the same work, and show nothing of their own.
    """
    if not _SHOWN.get():
        yield lambda rows: None
        return
    known = total() if callable(total) else total
    with encodings_shown(False), _bar(known, what) if sys.stderr.isatty() else _log(known, what) as tell:
        yield tell


@contextmanager
def _bar(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar, since = (
        Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False),
        time.monotonic(),
    )
    task = bar.add_task(what, total=total)

    def tell(rows: int) -> None:
        seconds = time.monotonic() - since
        done = bar.tasks[0].completed + rows
        bar.update(task, advance=rows, description=f"{what}, {done / seconds:,.0f} a second" if seconds else what)
        if seconds >= BAR_SECONDS:
            bar.start()

    try:
        yield tell
    finally:
        bar.stop()


@contextmanager
def _log(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    done, start = 0, time.monotonic()
    said = start

    def tell(rows: int) -> None:
        nonlocal done, said
        done, now = done + rows, time.monotonic()
        if now - said < LOG_SECONDS or (total is not None and done >= total):
            return
        said, rate, of, left = now, done / (now - start), "", ""
        if total is not None:
            of, left = f" of {total:,}", f", {timedelta(seconds=round((total - done) / rate))} left"
        print(f"{what}: {done:,}{of}, {rate:,.0f} a second{left}", file=sys.stderr, flush=True)

    yield tell
