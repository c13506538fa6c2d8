"""The registry of protocols: how a task is evaluated, chosen by the task itself (`protocol:`) or by name.

A protocol is a function of a model, a task and a data set; what follows the bare `*` are its options, checked by type.
To add one, write it in a module of its own under `@register_protocol("name")` and list the module in `MODULES`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError, create_model

from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.evaluation.result import Result
    from retroclip.tasks import Task

Run = Callable[..., "Result"]
MODULES = {
    "regions": "regions",
    "detection": "detection",
    "segmentation": "segmentation",
    "video": "video",
    "typographic-attack": "typographic",
    "corrupted-neighbours": "corrupted",
    "entities": "entities",
}
GIVEN = ("where", "method")  # not options of a protocol but arguments of every one
OF_TRAINING = (
    "epochs",
    "seed",
    "student",
    "targets",
    "architecture",
    "weights",
)  # mean nothing where no `train` is named
OF_PATCHES = ("smoothing", "denoising", "residual")  # of segmentation by the untrained tower

_REGISTRY: dict[str, Run] = {}


def register_protocol(name: str) -> Callable[[Run], Run]:
    """Register a function(model, task, dataset, *, where, method, **options) → Result under a name."""

    def register(run: Run) -> Run:
        _REGISTRY[name] = run
        return run

    return register


def list_protocols() -> list[str]:
    """Names of all protocols but classification, which is `evaluate`'s own."""
    return list(MODULES)


def get_protocol(name: str) -> Run:
    """The protocol of that name; RetroclipError naming those there are."""
    if name not in MODULES:
        raise RetroclipError(f"no protocol is called {name!r}: choose from classification, {', '.join(MODULES)}")
    importlib.import_module(f"retroclip.evaluation.{MODULES[name]}")
    return _REGISTRY[name]


def run_protocol(
    name: str,
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Result":
    """Evaluate by a protocol.

    Raises RetroclipError for an option that it doesn't have or has no use for, one of another type, and a model that
    changes embeddings of whole images where patches are read (`reads_patches`).
    """
    run = get_protocol(name)
    checked = checked_options(name, run, options or {})
    encoder = getattr(model, "encoder", model)
    if getattr(encoder, "base", None) is not None and reads_patches(name, checked):
        raise unread(name, method or str(encoder.name))
    return run(model, task, dataset, where=where, method=method, **checked)


def takes(name: str, option: str) -> bool:
    """Whether a protocol has an option; RetroclipError for an unknown protocol."""
    return option in own_options(get_protocol(name))


def draws(name: str, options: Mapping[str, Any]) -> bool:
    """Whether the figure of a protocol depends on its seed, under these options."""
    own = own_options(get_protocol(name))
    return "seed" in own and ("train" not in own or options.get("train") is not None)


def reads_patches(name: str, options: Mapping[str, Any]) -> bool:
    """Whether patch features of an image tower are read, which only the tower itself has, nothing that sits on it."""
    return name == "segmentation" or options.get("features") == "dense" or options.get("train") is not None


def unread(name: str, method: str) -> RetroclipError:
    """The error of a method that would leave such a protocol's figure as it is without it."""
    return RetroclipError(
        f"{name} reads patch features here, which {method} can't change: it works on whole images, so take another"
        " --method, or none"
    )


def checked_options(name: str, run: Run, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, converted to the types of the protocol's signature."""
    own = own_options(run)
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise RetroclipError(f"protocol {name} has no option {unknown[0]!r}; it has: {', '.join(own) or 'none'}")
    if reason := idle(name, options, "train" in own):
        raise RetroclipError(reason)
    fields: dict[str, Any] = {key: own[key] for key in options}
    try:
        checked = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise RetroclipError(f"option {problem['loc'][0]} of protocol {name}: {problem['msg']}") from None
    return {key: getattr(checked, key) for key in options}


def idle(name: str, options: Mapping[str, Any], trainable: bool) -> str | None:
    """What to say of an option that the other ones leave without use; None where there is none."""
    dense, training = options.get("features") == "dense", options.get("train") is not None
    rules = {
        "is for training: name another set as train": OF_TRAINING if trainable and not training else (),
        "is for features cut out, not for dense ones": ("context",) if dense else (),
        "is for dense features": ("size",) if name in ("regions", "detection") and not (dense or training) else (),
        "is for the untrained model, not for training": OF_PATCHES if training else (),
    }
    for reason, names in rules.items():
        for option in names:
            if option in options:
                return f"option {option} of protocol {name} {reason}"
    return None


def own_options(run: Run) -> dict[str, tuple[Any, Any]]:
    """Type and default of every option of a protocol."""
    return {
        each.name: (each.annotation, each.default)
        for each in inspect.signature(run, eval_str=False).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.name not in GIVEN
    }
