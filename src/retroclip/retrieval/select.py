"""Which classes do captions name? String matching, as Neural Priming and REAL do it."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from retroclip.tasks import Task

_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+"
)  # Chinese, Japanese: by character
_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "men": "man",
    "mice": "mouse",
    "oxen": "ox",
    "people": "person",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "wolves": "wolf",
    "women": "woman",
}

_OE = frozenset({"aloes", "canoes", "oboes", "shoes"})


def words(text: str) -> tuple[str, ...]:
    """The words of a text, lower case, singular, no punctuation: "Two Sea-Horses." → ("two", "sea", "horse")."""
    return tuple(singular(word) for word in _WORDS.findall(text.casefold()))


def singular(word: str) -> str:
    """An English word without its plural ending. Both sides of a comparison go through it, so that it may overshoot."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")) and word not in _OE:
        return word[:-2]
    if len(word) > 4 and word.endswith("uses") and not word.endswith("ouses"):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class ClassNames:
    """Finds the names, display names and synonyms of a task's classes in texts: whole words, singular or plural.

    Where a name lies inside a longer one ("horse" in "sea horse"), only the longer one counts.
    """

    def __init__(self, task: "Task") -> None:
        self._classes: dict[tuple[str, ...], set[int]] = {}
        for index, name in enumerate(task.classes):
            for spelling in (name, task.display_name(name), *task.synonyms.get(name, ())):
                if spelled := words(spelling):
                    self._classes.setdefault(spelled, set()).add(index)
        self._lengths: dict[str, list[int]] = {}
        for spelled in sorted(self._classes, key=len, reverse=True):
            lengths = self._lengths.setdefault(spelled[0], [])
            if len(spelled) not in lengths:
                lengths.append(len(spelled))

    def named_in(self, text: str) -> set[int]:
        """Indices of the classes that the text names."""
        found: set[int] = set()
        tokens, place = words(text), 0
        while place < len(tokens):
            lengths = self._lengths.get(tokens[place], ())
            match = next((n for n in lengths if tokens[place : place + n] in self._classes), 0)
            if match:
                found |= self._classes[tokens[place : place + match]]
            place += max(match, 1)
        return found

    def found_in(self, captions: Iterable[str]) -> tuple[int, ...]:
        """Indices, ascending, of the classes that any of a pair's captions names."""
        return tuple(sorted(set().union(*(self.named_in(caption) for caption in captions))))


def named_classes(captions: Sequence[Iterable[str]], task: "Task") -> list[tuple[int, ...]]:
    """For every pair's captions the indices of the task's classes that they name."""
    names = ClassNames(task)
    return [names.found_in(own) for own in captions]


def members(named: Sequence[Sequence[int]], classes: int) -> list[npt.NDArray[np.int64]]:
    """For each class the positions, ascending, of the pairs that name it: `named_classes` turned round."""
    positions: list[list[int]] = [[] for _ in range(classes)]
    for position, own in enumerate(named):
        for index in own:
            positions[index].append(position)
    return [np.array(rows, np.int64) for rows in positions]
