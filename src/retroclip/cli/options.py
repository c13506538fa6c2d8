"""Options that several verbs share, described once."""

from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError

ModelReference = Annotated[
    str,
    Parameter(help="`builtin`, `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:org/name`, a directory, or `ViT-B-32@file.pt`."),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], Parameter(help="auto: bf16 where the processor is faster with it, else fp32.")
]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, and nothing else, on stdout.")]
Where = Annotated[str | None, Parameter(help="SQL predicate over the columns, such as \"license = 'CC BY 4.0'\".")]
Method = Annotated[
    str | None,
    Parameter(help="A method of `retroclip compare`; default: `primed` where a memory is given, else `zero-shot`."),
]


def split_words(text: str) -> tuple[str, ...]:
    """`t2t,t2i` → ("t2t", "t2i")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def split_pair(text: str, option: str) -> tuple[str, str]:
    """`flowers=flowers.parquet#val` → ("flowers", "flowers.parquet#val")."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise WrongUsageError(f"{option} takes TASK=DATASET, not {text!r}")
    return name, value


def matching_methods(patterns: Sequence[str]) -> list[str]:
    """The registered methods that shell patterns name, in the order given; a name that matches none stays."""
    from retroclip.methods import list_methods

    return [name for pattern in patterns for name in list_methods(pattern) or [pattern]]
