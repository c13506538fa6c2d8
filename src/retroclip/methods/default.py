"""Which method is used where none is named: decided by the memory as the methods will see it."""

from typing import TYPE_CHECKING

from retroclip.methods.registry import Method, get_method

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.tasks import Task

DEFAULT = "default"
"""Stands for the name of a method where none is named; `pick_method` says which one it is."""
LEAST_NAMING = 20
"""Pairs below which stacked-linear does what primed does, or worse (docs/decisions.md): its own `prior`."""


def pick_method(
    name: str, memory: "Memory | None", task: "Task | None" = None, protocol: str = "classification"
) -> Method:
    """The method of that name, or `default_method`'s for `DEFAULT`; RetroclipError for an unknown name.

    `memory` is the one that the method will see: near-duplicates of evaluated images may be all that names a class.
    """
    return get_method(default_method(memory, task, protocol) if name == DEFAULT else name)


def default_method(memory: "Memory | None", task: "Task | None" = None, protocol: str = "classification") -> str:
    """The method used when none is named: without a memory zero-shot, with one stacked-linear or primed.

    The head needs a task that is only classified, and `LEAST_NAMING` pairs whose captions name one class of it.
    Image-text retrieval, which has no classes, takes the mean of neighbours.
    """
    from retroclip.classifiers import each_caption
    from retroclip.evaluation.image_text import TASK_NAME, WITH_MEMORY
    from retroclip.retrieval import enough_matched

    if memory is None:
        return "zero-shot"
    if protocol == TASK_NAME:
        return WITH_MEMORY
    if protocol != "classification" or task is None:
        return "primed"
    return "stacked-linear" if enough_matched(each_caption(memory), task, LEAST_NAMING) else "primed"


def may_train(name: str, memory: "Memory | None") -> bool:
    """Whether the method of that name is trained; of `DEFAULT`, whether it may be, whatever captions will name."""
    return memory is not None if name == DEFAULT else get_method(name).trained
