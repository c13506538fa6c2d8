"""Which classes does a caption name? String matching, as Neural Priming and REAL do it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retroclip.tasks import Task


def normalised(text: str) -> str:
    """Lower case, with everything but letters and digits of any script as single blanks."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


class ClassNames:
    """Finds class names and synonyms as whole words in captions, plurals in -s and -es included.

    Where one name lies inside another ("horse" in "sea horse"), only the longer one counts.
    """

    def __init__(self, task: Task) -> None:
        self.classes_of: dict[str, set[int]] = {}
        for index, name in enumerate(task.classes):
            for word in (name, *task.synonyms.get(name, ())):
                if key := normalised(word):
                    self.classes_of.setdefault(key, set()).add(index)
        longest_first = sorted(self.classes_of, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first))
        # Alternation takes the first that fits at a place, and matches don't overlap: so the longest name wins.
        self.pattern = re.compile(rf"(?<!\w)({alternatives})(?:e?s)?(?!\w)") if longest_first else None

    def found_in(self, captions: Iterable[str]) -> tuple[int, ...]:
        """Indices of the classes that any of a pair's captions names, in order of the task's classes."""
        return tuple(sorted({index for word in self.words_in(captions) for index in self.classes_of[word]}))

    def words_in(self, captions: Iterable[str]) -> list[str]:
        """The names and synonyms as they occur, normalised, once a place."""
        if self.pattern is None:
            return []
        return [word for caption in captions for word in self.pattern.findall(normalised(caption))]


def named_classes(captions: Sequence[Sequence[str]], task: Task) -> list[tuple[int, ...]]:
    """For every pair's captions, the indices of the classes they name."""
    names = ClassNames(task)
    return [names.found_in(own) for own in captions]


def most_frequent_names(task: Task, captions: Sequence[Sequence[str]]) -> dict[str, str]:
    """For each class its name or synonym that occurs most often in the memory's captions (REAL-Prompt).

    A class none of whose names occurs keeps its own; of two that occur equally often the earlier wins.
    """
    counts = Counter(word for own in captions for word in ClassNames(task).words_in(own))
    return {
        name: max((name, *task.synonyms.get(name, ())), key=lambda word: counts[normalised(word)])
        for name in task.classes
    }
