"""Options that several verbs share, described once."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

ModelReference = Annotated[
    str,
    Parameter(help="`builtin`, `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:org/name`, a directory, or `ViT-B-32@file.pt`."),
]
OwnModel = Annotated[
    str | None, Parameter(help="A model as `retroclip evaluate` takes it. Default: the one that made the memory.")
]
Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**32))]
MemoryName = Annotated[str, Parameter(help="A folder, or a URL on object storage such as s3://bucket/mem.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], Parameter(help="auto: bf16 where the processor is faster with it, else fp32.")
]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, and nothing else, on stdout.")]
Where = Annotated[
    str | None,
    Parameter(help="SQL predicate over columns and values of the metadata, such as \"license = 'CC BY 4.0'\"."),
]
Method = Annotated[
    str | None,
    Parameter(
        help="A method of `retroclip compare`; default: `zero-shot`, with a memory `stacked-linear` where 20 of its"
        " pairs name a class of the task to be classified, else `primed`."
    ),
]

MetricName = Annotated[
    Literal["top1", "mean-per-class", "map11", "map", "roc-auc"] | None,
    Parameter(help="Instead of the task's own; map11 and map are for images with several labels."),
]
Train = Annotated[
    str | None,
    Parameter(help="Labelled images to learn from, such as `flowers.parquet#train`; never those evaluated."),
]
Shots = Annotated[
    str | None,
    Parameter(help="So many of them for each class, drawn by the seed, or `full` (default): needs --train."),
]

Describe = Annotated[
    bool,
    Parameter(negative=(), help='Name classes with the task\'s descriptions, for a model trained so: "crane, a bird".'),
]


def load_own(model: str | None, made: str, reference: str | None, fingerprint: str | None) -> "Encoder":
    """The model that `--model` names, or without it the one at `reference` that made what `made` says.

    ModelError, which asks for --model, where that isn't known, can't be loaded here, or is another model now.
    """
    from retroclip.encoders import load
    from retroclip.errors import ModelError

    if model is not None:
        return load(model)
    if reference is None:
        raise ModelError(f"{made} doesn't say which model made it: name one with --model")
    try:
        own = load(reference)
    except ModelError as error:
        raise ModelError(
            f"name with --model where {reference}, which made {made}, is on this machine: {error}"
        ) from None
    if own.fingerprint != fingerprint:
        raise ModelError(f"{reference} is another model than when it made {made}: name that one with --model")
    return own


def read_shots(text: str | None, train: str | None) -> int | None:
    """`16` → 16, `full` → None; WrongUsageError for anything else, and for shots out of nowhere."""
    if text is not None and train is None:
        raise WrongUsageError("--shots needs labelled images to draw from: name another split of them with --train")
    if text in (None, "full"):
        return None
    if not text.isdecimal() or not int(text):
        raise WrongUsageError(f"--shots takes a number of images a class, or full, not {text!r}")
    return int(text)


def split_words(text: str) -> tuple[str, ...]:
    """`t2t,t2i` → ("t2t", "t2i")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def split_pair(text: str, option: str) -> tuple[str, str]:
    """`flowers=flowers.parquet#val` → ("flowers", "flowers.parquet#val")."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise WrongUsageError(f"{option} takes TASK=DATASET, not {text!r}")
    return name, value
