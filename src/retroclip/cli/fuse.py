"""`retroclip fuse`"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.checkpoints import resumable, save_once
from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import MemoryName, OwnModel, Seed, load_own
from retroclip.cli.terminal import training_shown


def fuse(
    memory: MemoryName,
    /,
    *,
    model: OwnModel = None,
    kind: Literal["reco", "ra-clip", "mean", "centred-mean"] = "reco",
    train: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    k: Annotated[
        int, Parameter(name=["-k", "--k"], help="Neighbours to consult.", validator=validators.Number(gte=1))
    ] = 10,
    init: Annotated[
        Literal["identity", "plain"] | None,
        Parameter(help="RECO's start: near the mean of neighbours, or the paper's. Default: identity."),
    ] = None,
    blocks: Annotated[
        int | None, Parameter(help="RA-CLIP's blocks. Default: 1.", validator=validators.Number(gte=1))
    ] = None,
    search: Annotated[
        Literal["uni-modal", "cross-modal"] | None,
        Parameter(help="Keys of the query's own modality, or of the other. Default: uni-modal."),
    ] = None,
    values: Annotated[
        Literal["cross-modal", "uni-modal", "query"] | None,
        Parameter(help="What is fused of a neighbour; query: nothing, a control. Default: cross-modal."),
    ] = None,
    relevance: Annotated[
        float | None,
        Parameter(
            help="Above 0, far neighbours count less; 0.5 by default for RECO from the identity, else 0.",
            validator=validators.Number(gte=0),
        ),
    ] = None,
    seed: Seed = 0,
    out: Path,
) -> None:
    """Train an encoder to consult a memory at inference (RECO, RA-CLIP), or average its neighbours.

    Parameters
    ----------
    memory
        The memory to consult.
    train
        Sources of pairs to train on. Default: the memory's own, each without itself.
    out
        Folder for the model; name it wherever a model is asked for.
    """
    check_kind(kind, {"init": init, "blocks": blocks})
    if values == "query" and relevance:
        raise WrongUsageError("fuse: leave out --relevance: with --values query there are no neighbours")
    from retroclip.encoders.saving import check_target
    from retroclip.memory import Memory, absolute
    from retroclip.training import fuse as train_fusion
    from retroclip.training.distributed import start

    start()
    check_target(out)
    consulted = Memory.open(memory)
    base = load_own(model, memory, consulted.model_reference, consulted.fingerprint)
    options: dict[str, Any] = {"kind": kind, "k": k, "seed": seed, "train": train or None}
    given = {"init": init, "blocks": blocks, "search": search, "values": values, "relevance": relevance}
    # what isn't given has the default of `training.fuse` or of the fusion, and no other
    options |= {name: value for name, value in given.items() if value is not None}
    consulting = [absolute(consulted.path), consulted.id, consulted.version]
    with resumable(out, **options, model=base.fingerprint, memory=consulting) as checkpoint:
        with training_shown(f"{kind}: {memory}") as on_log:
            encoder = train_fusion(base, consulted, checkpoint=checkpoint, on_log=on_log, **options)
        save_once(encoder, out)


def check_kind(kind: str, options: dict[str, Any]) -> None:
    """WrongUsageError for an option, if it isn't None, that a kind of fusion doesn't have."""
    import inspect

    from retroclip.fusion import KINDS

    for name, value in options.items():
        having = [each for each, made in KINDS.items() if name in inspect.signature(made).parameters]
        if value is not None and kind not in having:
            raise WrongUsageError(f"fuse: --{name} is for --kind {' or '.join(having)}, not for {kind}")
