"""Options that several verbs share, described once."""

from typing import Annotated, Literal

from cyclopts import Parameter

ModelReference = Annotated[
    str,
    Parameter(help="`builtin`, `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:org/name`, a directory, or `ViT-B-32@file.pt`."),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], Parameter(help="auto: bf16 where the processor is faster with it, else fp32.")
]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, and nothing else, on stdout.")]
Where = Annotated[str | None, Parameter(help="SQL predicate over the columns, such as \"license = 'CC BY 4.0'\".")]
Words = Annotated[list[str], Parameter(negative=(), consume_multiple=False)]


def split_words(text: str) -> tuple[str, ...]:
    """`t2t,t2i` → ("t2t", "t2i")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
