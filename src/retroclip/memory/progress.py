"""How far an ingest is, on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retroclip.memory.sources import describe_sources
from retroclip.pairs import count_pairs, is_embedding_folder, open_embeddings

Report = Callable[[int, int], None]


@contextmanager
def reporter(sources: Any, shown: bool, also: Report | None) -> Iterator[Report | None]:
    """A function to call with the numbers of pairs read and rejected so far; shown as a bar on stderr if wanted."""
    if not shown:
        yield also
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} pairs/s, {task.fields[rejected]} rejected"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("encoding", total=total_pairs(sources), rate="?", rejected=0)

        def report(read: int, rejected: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=read, rejected=rejected, rate=f"{speed:.0f}" if speed else "?")
            if also:
                also(read, rejected)

        yield report


def total_pairs(sources: Any) -> int | None:
    """Number of pairs, where all sources are named and it can be told cheaply."""
    names = describe_sources(sources)
    if not names or any(name.startswith("<") for name in names):
        return None
    counts = [
        open_embeddings(Path(name)).rows if is_embedding_folder(Path(name)) else count_pairs(name) for name in names
    ]
    return None if None in counts else sum(count for count in counts if count is not None)
