"""`retroclip customize`"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.checkpoints import resumable, save_once
from retroclip.cli.options import ModelReference
from retroclip.cli.terminal import training_shown

Tuning = Literal["gated-image", "locked-text", "locked-image", "full", "gated-text", "gated-both"]


def customize(
    retrieved: Path,
    /,
    *,
    model: ModelReference = "builtin",
    tuning: Tuning = "gated-image",
    out: Path,
    epochs: Annotated[int | None, Parameter(help="Default: 5.", validator=validators.Number(gte=1))] = None,
    batch_size: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    micro_batch: Annotated[
        int | None,
        Parameter(help="Pairs encoded at a time: large batches in small memory.", validator=validators.Number(gte=1)),
    ] = None,
    lr: float | None = None,
    recipe: Literal["anchored", "react"] = "anchored",
    seed: int = 0,
) -> None:
    """Tune a model on retrieved pairs (REACT).

    Parameters
    ----------
    retrieved
        Folder that `retroclip retrieve` wrote.
    tuning
        What is trained: gated blocks beside frozen ones, or a whole tower with the other locked.
    recipe
        REACT's own loss, or ours, which also uses the class names and stays near the untuned model.
    out
        Folder for the customized model; name it wherever a model is asked for.
    """
    from retroclip.encoders import load
    from retroclip.encoders.saving import check_target
    from retroclip.retrieval import Retrieved
    from retroclip.training import customize as tune
    from retroclip.training.distributed import start

    start()
    check_target(out)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "recipe": recipe}
    given["micro_batch"] = micro_batch
    options = {name: value for name, value in given.items() if value is not None}
    base, found = load(model), Retrieved.load(retrieved)
    settings = {**options, "tuning": tuning, "seed": seed, "model": base.fingerprint, "pairs": found.provenance}
    with resumable(out, **settings) as checkpoint:
        with training_shown(f"{tuning}: {len(found)} pairs") as on_log:
            encoder = tune(base, found, tuning=tuning, seed=seed, checkpoint=checkpoint, on_log=on_log, **options)
        save_once(encoder, out)
