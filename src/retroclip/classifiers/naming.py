"""Which of its names does a class go by in a memory? (REAL-Prompt)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from retroclip.classifiers.classifier import LinearClassifier
from retroclip.classifiers.zero_shot import class_texts
from retroclip.retrieval import ClassNames

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.memory import Memory
    from retroclip.tasks import Task


def most_frequent_names(task: Task, captions: Sequence[Sequence[str]]) -> dict[str, str]:
    """For each class its name or synonym that most pairs' captions use.

    A class none of whose names occurs keeps its own; of two that occur equally often the earlier wins.
    """
    spellings = {name: (name, *task.synonyms.get(name, ())) for name in task.classes}
    flat = list(dict.fromkeys(spelling for own in spellings.values() for spelling in own))
    # Each spelling as a class of its own, so that the longest one wins where they overlap.
    names = ClassNames(task.model_copy(update={"classes": flat, "synonyms": {}}))
    counts = Counter(flat[index] for own in captions for index in names.found_in(own))
    return {name: max(own, key=lambda spelling: counts[spelling]) for name, own in spellings.items()}


def real_prompt(encoder: Encoder, task: Task, captions: Sequence[Sequence[str]]) -> LinearClassifier:
    """The zero-shot head with each class called what the captions call it most often (REAL-Prompt).

    Only classes with synonyms can change; one that keeps its name keeps its display name in prompts too.
    """
    names = most_frequent_names(task, captions)
    changed = {name: chosen for name, chosen in names.items() if chosen != name}
    renamed = task.model_copy(update={"display": task.display | changed})
    return LinearClassifier("real-prompt", encoder, task.classes, class_texts(encoder, renamed))


def memory_captions(memory: Memory, *, chunk: int = 1 << 16) -> list[tuple[str, ...]]:
    """The captions of all of a memory's pairs."""
    return list(each_caption(memory, chunk=chunk))


def each_caption(memory: Memory, *, chunk: int = 1 << 16) -> Iterator[tuple[str, ...]]:
    """The same, pair after pair: no further chunk is read than is asked for."""
    ids = memory.ids()
    for start in range(0, len(ids), chunk):
        own = memory.take(ids[start : start + chunk], ["captions"])["captions"].to_pylist()
        yield from (tuple(captions or ()) for captions in own)
