"""`retroclip fuse`"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.checkpoints import resumable, save_once
from retroclip.cli.options import MemoryName, ModelReference
from retroclip.cli.terminal import training_shown


def fuse(
    memory: MemoryName,
    /,
    *,
    model: ModelReference = "builtin",
    kind: Literal["reco", "ra-clip", "mean", "centred-mean"] = "reco",
    train: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    k: Annotated[
        int, Parameter(name=["-k", "--k"], help="Neighbours to consult.", validator=validators.Number(gte=1))
    ] = 10,
    seed: int = 0,
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
    from retroclip.encoders import load
    from retroclip.encoders.saving import check_target
    from retroclip.memory import Memory, absolute
    from retroclip.training import fuse as train_fusion
    from retroclip.training.distributed import start

    start()
    check_target(out)
    base, consulted = load(model), Memory.open(memory)
    options: dict[str, Any] = {"kind": kind, "k": k, "seed": seed, "train": train or None}
    consulting = [absolute(consulted.path), consulted.id, consulted.version]
    with resumable(out, **options, model=base.fingerprint, memory=consulting) as checkpoint:
        with training_shown(f"{kind}: {memory}") as on_log:
            encoder = train_fusion(base, consulted, checkpoint=checkpoint, on_log=on_log, **options)
        save_once(encoder, out)
