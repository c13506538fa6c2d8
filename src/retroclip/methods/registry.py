"""Methods by name: registered, listed by a shell pattern, and built."""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retroclip.errors import RetroclipError
from retroclip.methods.context import MethodContext

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder

Build = Callable[[MethodContext], "Encoder | Classifier"]


@dataclass(frozen=True)
class Method:
    """A registered method. A `trained` one depends on the seed, one that `needs_train` learns from labelled images.

    One that isn't `dense` changes embeddings of whole images alone, and has no part where an image's patches are read.
    `summary` is the first line of its docstring.
    """

    name: str
    build: Build
    trained: bool
    needs_memory: bool
    default: bool
    needs_train: bool = False
    dense: bool = True

    @property
    def summary(self) -> str:
        return (self.build.__doc__ or "").strip().split("\n")[0]

    def __call__(self, context: MethodContext) -> "Encoder | Classifier":
        """Build the model; RetroclipError where the method needs a memory or labelled images and there are none."""
        if self.needs_train and context.train is None:
            raise RetroclipError(f"method {self.name!r} learns from labelled images: name them with --train")
        if self.needs_memory and context.memory is None:
            raise RetroclipError(f"method {self.name!r} needs a memory: name one with --memory")
        return self.build(context)


_REGISTRY: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    trained: bool = False,
    needs_memory: bool = True,
    default: bool = True,
    needs_train: bool = False,
    dense: bool = True,
) -> Callable[[Build], Build]:
    """Register a function under a name; with `default=False` a comparison runs it only when it is named.

    One with `needs_train` learns from labelled images (`MethodContext.labelled`). `dense=False` is for models that sit
    on an encoder (`.base`) and change its embeddings of whole images. Raises ValueError for a name that is taken.
    """

    def register(build: Build) -> Build:
        if name in _REGISTRY:
            raise ValueError(f"a method called {name!r} is registered already")
        _REGISTRY[name] = Method(name, build, trained, needs_memory, default, needs_train, dense)
        return build

    return register


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the methods that match a shell pattern, in the order of a comparison's rows."""
    return fnmatch.filter(_REGISTRY, pattern)


def default_methods() -> list[str]:
    """Names of the methods that a comparison runs unless told otherwise."""
    return [name for name, method in _REGISTRY.items() if method.default]


def get_method(name: str) -> Method:
    """The method of that name; RetroclipError naming those there are."""
    if name not in _REGISTRY:
        raise RetroclipError(f"no method is called {name!r}: choose from {', '.join(_REGISTRY)}")
    return _REGISTRY[name]
