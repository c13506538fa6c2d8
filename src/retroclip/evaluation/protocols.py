"""The registry of protocols: how a task is evaluated, chosen by the task itself (`protocol:`) or by name.

A protocol is a function of a model, a task and a data set; what follows the bare `*` are its options, checked by type.
To add one, write it in a module of its own under `@register_protocol("name")` and list the module in `MODULES`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import ConfigDict, ValidationError, create_model

from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.evaluation.result import Result
    from retroclip.memory import Memory
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
    """Evaluate by a protocol; RetroclipError for an option it doesn't have, or of another type."""
    run = get_protocol(name)
    return run(model, task, dataset, where=where, method=method, **checked_options(name, run, options or {}))


def model_for(
    encoder: "Encoder",
    task: "Task",
    dataset: str | Path,
    memory: "Memory | None",
    *,
    method: str = "zero-shot",
    where: str | None = None,
    seed: int = 0,
) -> "Encoder | Classifier":
    """The model that a method makes for a task, near-duplicates of the data set's images hidden from it."""
    if method == "zero-shot" and memory is None and getattr(encoder, "memory", None) is None:
        return encoder
    from retroclip.evaluation.comparison import prepare_context
    from retroclip.evaluation.samples import Samples
    from retroclip.methods import get_method
    from retroclip.pairs import Rejected, read_pairs

    pairs = [pair for pair in read_pairs(dataset, where=where) if not isinstance(pair, Rejected) and pair.image]
    images = [cast(bytes, pair.image) for pair in pairs]
    labels = np.zeros(len(images), np.int64)
    samples = Samples(str(dataset), None, [pair.key for pair in pairs], images, labels, list(task.classes))
    return get_method(method)(prepare_context(encoder, task, samples, memory).for_run(seed))


def checked_options(name: str, run: Run, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, converted to the types of the protocol's signature."""
    own = {
        each.name: (each.annotation, each.default)
        for each in inspect.signature(run, eval_str=False).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.name not in GIVEN
    }
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise RetroclipError(f"protocol {name} has no option {unknown[0]!r}; it has: {', '.join(own) or 'none'}")
    fields: dict[str, Any] = {key: own[key] for key in options}
    try:
        checked = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise RetroclipError(f"option {problem['loc'][0]} of protocol {name}: {problem['msg']}") from None
    return {key: getattr(checked, key) for key in options}
