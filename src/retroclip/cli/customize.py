"""`retroclip customize`"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.checkpoints import resumable, save_once
from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import OwnModel, Seed, load_own
from retroclip.cli.terminal import training_shown

Tuning = Literal["gated-image", "locked-text", "locked-image", "full", "gated-text", "gated-both"]


def customize(
    retrieved: Path,
    /,
    *,
    model: OwnModel = None,
    tuning: Tuning = "gated-image",
    out: Path,
    epochs: Annotated[
        int | None,
        Parameter(
            help="For react-published 32, for gates on few pairs as many as make 30 steps. Default: 5.",
            validator=validators.Number(gte=1),
        ),
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(help="For react-published 4096. Default: 128.", validator=validators.Number(gte=1))
    ] = None,
    micro_batch: Annotated[
        int | None,
        Parameter(help="Pairs encoded at a time: large batches in small memory.", validator=validators.Number(gte=1)),
    ] = None,
    lr: Annotated[
        float | None, Parameter(help="Default: by tuning and recipe.", validator=validators.Number(gt=0))
    ] = None,
    weight_decay: Annotated[float | None, Parameter(help="Default: 0.05.", validator=validators.Number(gte=0))] = None,
    warmup: Annotated[
        float | None,
        Parameter(
            help="A share of all steps; for react-published 0.064. Default: 0.1.",
            validator=validators.Number(gte=0, lte=1),
        ),
    ] = None,
    gates: Annotated[
        int | None,
        Parameter(help="So many last blocks. Default: half of them, at most 6.", validator=validators.Number(gte=1)),
    ] = None,
    views: Annotated[
        int | None,
        Parameter(
            help="Augmented views of each image beside the plain one; for react-published new ones. Default: 0.",
            validator=validators.Number(gte=0),
        ),
    ] = None,
    augmentation: Literal["mild", "react"] | None = None,
    recipe: Literal["anchored", "react", "react-published"] = "anchored",
    positives: Literal["class", "named", "caption"] | None = None,
    loss: Annotated[
        Literal["softmax", "sigmoid"] | None, Parameter(help="REACT's, or SigLIP's. Default: softmax.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Tune a model on retrieved pairs (REACT).

    Parameters
    ----------
    retrieved
        Folder that `retroclip retrieve` wrote.
    tuning
        What is trained: gated blocks beside frozen ones, or a whole tower with the other locked.
    augmentation
        What the views are: crops, flips and some colour, or REACT's own (small crops, RandAugment, erasing). Default:
        mild.
    recipe
        Ours, which also uses the class names and stays near the untuned model; REACT's loss with our rates; or all that
        its authors publish: loss, rates, batches of 4096, 32 epochs, and views made anew at every epoch. That is for
        millions of pairs; for fewer the paper raises the epochs until there are as many steps, about 78,000.
    positives
        Positives of each other: pairs that one class found, whose captions name one class, or whose captions are alike.
        Default: by the recipe.
    out
        Folder for the customized model; name it wherever a model is asked for.
    """
    if gates is not None and "gated" not in tuning:
        raise WrongUsageError(f"customize: --gates is for a gated tuning, not for {tuning}")
    from retroclip.encoders.saving import check_target
    from retroclip.retrieval import Retrieved
    from retroclip.training import customize as tune
    from retroclip.training.distributed import start

    start()
    check_target(out)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "recipe": recipe}
    given |= {"micro_batch": micro_batch, "weight_decay": weight_decay, "warmup": warmup, "gates": gates}
    given |= {"views": views, "augmentation": augmentation, "positives": positives, "loss": loss}
    # what isn't given has the default of `training.customize`, and no other
    options = {name: value for name, value in given.items() if value is not None}
    found = Retrieved.load(retrieved)
    made_by = found.provenance.get("model_reference", found.provenance.get("model"))
    base = load_own(model, str(retrieved), made_by, found.provenance.get("fingerprint"))
    settings = {**options, "tuning": tuning, "seed": seed, "model": base.fingerprint, "pairs": found.provenance}
    with resumable(out, **settings) as checkpoint:
        with training_shown(f"{tuning}: {len(found)} pairs") as on_log:
            encoder = tune(base, found, tuning=tuning, seed=seed, checkpoint=checkpoint, on_log=on_log, **options)
        save_once(encoder, out)
