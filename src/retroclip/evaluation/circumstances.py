"""What a comparison's kept runs depend on, so that none is taken for another."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retroclip.evaluation.samples import Samples

if TYPE_CHECKING:
    from retroclip.methods import MethodContext
    from retroclip.tasks import Task

OF_MASKS = {"reduce_zero_label"}  # fields of a task that mean nothing where no masks are read, as in comparisons


def circumstances(
    context: "MethodContext", samples: Samples, others: Sequence[tuple["Task", Samples]]
) -> dict[str, Any]:
    """What a cached run depends on besides its method and seed."""
    from retroclip.version import __version__

    memory = context.memory
    tasks = [(context.task, samples), *others]
    return {
        "retroclip": __version__,
        "fingerprint": getattr(context.encoder, "fingerprint", None),
        "precision": getattr(context.encoder, "precision", None),
        "memory": None if memory is None else [str(memory.path), memory.id, memory.version],
        "visible": None if memory is None else len(memory),
        "excluded": context.excluded_ids.tolist(),
        "train": None if context.train is None else [context.train.hash, context.shots],
        "options": context.options,
        "defaults": method_defaults(),
        "tasks": [(t.model_dump(mode="json", exclude=OF_MASKS), s.hash) for t, s in tasks],
    }


def method_defaults() -> dict[str, Any]:
    """What the methods do where `options` say nothing: defaults of the functions and classes beneath them."""
    from retroclip import classifiers, fusion, methods, retrieval, training
    from retroclip.training.recipes import RECIPES
    from retroclip.training.tuning import TUNINGS

    beneath: list[Callable[..., Any]] = [classifiers.primed, classifiers.tip_adapter, classifiers.tip_x]
    beneath += [classifiers.stacked_linear, classifiers.linear_probe, classifiers.sgd_probe, retrieval.matched_pairs]
    beneath += [training.augmented_probe, training.fine_tune]
    beneath += [retrieval.retrieve, training.customize, training.fuse, fusion.MemoryEncoder, *fusion.KINDS.values()]
    taken = {made.__name__: inspect.signature(made).parameters.values() for made in beneath}
    given = {name: {p.name: p.default for p in own if p.default is not p.empty} for name, own in taken.items()}
    return {"functions": given, "retrieval": methods.RETRIEVAL, "tunings": TUNINGS, "recipes": RECIPES}
