"""What verbs print: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retroclip.progress import LOG_SECONDS, encodings_shown

if TYPE_CHECKING:
    from retroclip.evaluation import Result

P = ParamSpec("P")
R = TypeVar("R")


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr: stdout is for results."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_json(value: Any) -> None:
    """The only thing that a verb prints on stdout under `--json`."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_json_list(values: Iterable[Any]) -> None:
    """`print_json` of a list whose items come one by one, one a line: however many they are, none is kept.

    What ends with an error before its first item prints nothing.
    """
    before = "[\n"
    for value in values:
        sys.stdout.write(before)
        json.dump(value, sys.stdout, ensure_ascii=False, default=str)
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table on stdout."""
    table = Table(title=escape(title), title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*["" if cell is None else escape(str(cell)) for cell in row])
    _results_console().print(table)


def print_results(results: "Sequence[Result]") -> None:
    """Results on stdout, one table for those that may be compared."""
    from retroclip.report import group, rich_table, tell_apart

    groups = group(results)
    for rows, added in zip(groups, tell_apart(groups), strict=True):
        _results_console().print(rich_table(rows, added))


def told_failures(results: "Sequence[Result]") -> int:
    """1, and a line on stderr, when a method failed; else 0."""
    failed = [result.method for result in results if result.error is not None]
    if failed:
        say(f"{len(failed)} of {len(results)} methods failed: {', '.join(failed)}; the reasons stand beside the table")
    return 1 if failed else 0


def _results_console() -> Console:
    # A pipe has no width of its own, and a table cut at 80 columns is of no use to anybody.
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Names and values, one a line; nested ones under a name of several words, what has no value not at all."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for name, value in _flat(facts):
        table.add_row(escape(name), escape(value))
    _results_console().print(table)


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        name = f"{before} {key}".strip()
        if isinstance(value, Mapping) and any(isinstance(own, Mapping) for own in value.values()):
            yield from _flat(value, name)
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{own}: {_cell(one)}" for own, one in value.items())
        elif key.endswith("_bytes") and isinstance(value, int):
            from retroclip.memory.planner import told_size

            yield name.removesuffix("_bytes"), told_size(value)
        elif value is not None:
            yield name, _cell(value)


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_interactive() -> bool:
    """Whether progress bars make sense: somebody looks at stderr."""
    return sys.stderr.isatty()


def with_progress(verb: Callable[P, R]) -> Callable[P, R]:
    """The verb, on whose way it is shown how far long encodings of images and texts are."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with encodings_shown():
            return verb(*args, **kwargs)

    return run


@contextmanager
def training_shown(label: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """A line on the terminal that follows a training; the function inside takes the rows of its history.

    Where stderr is no terminal it is written anew once in `LOG_SECONDS`. Of several processes only the main one has
    something to show.
    """
    from retroclip.training.distributed import is_main

    if not is_main():
        yield lambda row: None
        return
    with Console(stderr=True).status(escape(label)) as status:
        said = 0.0

        def show(row: dict[str, float]) -> None:
            nonlocal said
            rate = row["step"] / row["seconds"] if row["seconds"] else 0.0
            line = f"{label}, step {row['step']:.0f}, loss {row['loss']:.3f}, {rate:.1f} steps/s"
            if is_interactive():
                status.update(escape(line))
            elif row["seconds"] >= said + LOG_SECONDS:
                said = row["seconds"]
                say(line)

        yield show
