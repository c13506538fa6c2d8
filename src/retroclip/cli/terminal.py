"""What verbs print: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr: stdout is for results."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_json(value: Any) -> None:
    """The only thing that a verb prints on stdout under `--json`."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout, as wide as its content when it is piped."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*["" if cell is None else str(cell) for cell in row])
    wide = None if sys.stdout.isatty() else 200
    Console(width=wide, highlight=False, markup=False).print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Names and values, one a line; nested ones in one line of JSON."""
    rows = [
        (name, json.dumps(value, default=str) if isinstance(value, dict | list) else value)
        for name, value in facts.items()
    ]
    print_table(title, ["", ""], rows)


def is_interactive() -> bool:
    """Whether progress bars make sense: somebody looks at stderr."""
    return sys.stderr.isatty()
