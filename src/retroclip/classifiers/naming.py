"""Which of its names does a class go by in a memory? (REAL-Prompt)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retroclip.retrieval import ClassNames

if TYPE_CHECKING:
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
