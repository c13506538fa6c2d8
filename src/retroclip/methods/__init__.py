"""The registry of methods: from an encoder, a memory and a task to an `Encoder` or a `Classifier` again.

A method is a function of a `MethodContext`, thin over the rooms that do the work. To add one, write it into one of the
modules here (or into your own package) under `@register_method("name")`; `compare` and the command line then know it.
The order of registration is the order of the rows in a comparison.
"""

from retroclip.methods.context import RETRIEVAL, MethodContext
from retroclip.methods.default import DEFAULT, default_method, may_train, pick_method
from retroclip.methods.registry import Build, Method, default_methods, get_method, list_methods, register_method

# isort: split
from retroclip.methods import untrained as untrained  # noqa: I001 these three register the methods, in this order
from retroclip.methods import trained as trained
from retroclip.methods import labelled as labelled

__all__ = [
    "DEFAULT",
    "RETRIEVAL",
    "Build",
    "Method",
    "MethodContext",
    "default_method",
    "default_methods",
    "get_method",
    "list_methods",
    "may_train",
    "pick_method",
    "register_method",
]
