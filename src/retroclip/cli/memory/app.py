"""The group of verbs about memories, and the options that they share."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, validators

app = App(name="memory", help="Make, change, inspect and search a memory of image-text pairs.")

BatchSize = Annotated[int, Parameter(validator=validators.Number(gte=1))]
BlocklistFile = Annotated[
    Path | None,
    Parameter(help="File of pairs to leave out, now and later: sha256:…, md5:…, key:…, source:… or url:… a line."),
]
Predicate = Annotated[str, Parameter(help="SQL predicate over columns and values of the metadata: which pairs.")]


def read_blocklist(path: Path | None) -> Any:
    """The Blocklist in a file; None where none is named."""
    from retroclip.memory import Blocklist

    return None if path is None else Blocklist.read(path)


def shown_index(index: dict[str, Any]) -> dict[str, Any]:
    """`info()["index"]` for a table: the recall stands beside each key there anyway."""
    return {name: value for name, value in index.items() if name != "recall"}
