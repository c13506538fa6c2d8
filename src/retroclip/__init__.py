"""An external memory of image-text pairs for any CLIP-like model: train, customize, consult, evaluate.

The names below are imported when they are first used, so that `import retroclip` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from retroclip.errors import RetroclipError
from retroclip.version import __version__

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier, zero_shot
    from retroclip.encoders import Encoder, load
    from retroclip.evaluation import Result, compare, evaluate
    from retroclip.memory import Memory
    from retroclip.pairs import LabelledSet, Pair, load_labelled, read_pairs
    from retroclip.retrieval import Retrieved, retrieve
    from retroclip.tasks import Task, catalogue
    from retroclip.training import customize, fuse

_ROOM_OF = {
    "Classifier": "classifiers",
    "Encoder": "encoders",
    "LabelledSet": "pairs",
    "Memory": "memory",
    "Pair": "pairs",
    "Result": "evaluation",
    "Retrieved": "retrieval",
    "Task": "tasks",
    "catalogue": "tasks",
    "compare": "evaluation",
    "customize": "training",
    "evaluate": "evaluation",
    "fuse": "training",
    "load": "encoders",
    "load_labelled": "pairs",
    "read_pairs": "pairs",
    "retrieve": "retrieval",
    "zero_shot": "classifiers",
}

__all__ = [
    "Classifier",
    "Encoder",
    "LabelledSet",
    "Memory",
    "Pair",
    "Result",
    "Retrieved",
    "RetroclipError",
    "Task",
    "__version__",
    "catalogue",
    "compare",
    "customize",
    "evaluate",
    "fuse",
    "load",
    "load_labelled",
    "read_pairs",
    "retrieve",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'retroclip' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"retroclip.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
