"""Class lists that several tasks share, stored once: ImageNet's thousand and subsets of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class SharedClasses:
    """Names in the order of the data set's indices, and what is known of each."""

    names: tuple[str, ...]
    display: dict[str, str]
    descriptions: dict[str, str]
    synonyms: dict[str, list[str]]


def expand_classes(data: dict[str, Any]) -> dict[str, Any]:
    """Replace `classes: {shared: imagenet, indices: […]}` by the names, with their descriptions and synonyms.

    With `numbered: true` a class's number is a synonym, for data whose folders are numbers (ImageNetV2).

    What the task says itself of a class goes before what the shared list says.

    Raises:
        ValueError: no such list, an unknown key, an index outside it, or a field of another kind.
    """
    wanted = data.get("classes")
    if not isinstance(wanted, dict):
        return data
    unknown = sorted(set(wanted) - {"shared", "indices", "numbered"})
    if wanted.get("shared") != "imagenet" or unknown:
        raise ValueError("classes must be a list of names, or {shared: imagenet, indices: [...], numbered: true}")
    shared = imagenet_classes()
    given = wanted.get("indices", range(len(shared.names)))
    if not isinstance(given, (list, range)) or not all(str(index).isdecimal() for index in given):
        raise ValueError(f"indices are a list of numbers, not {given!r}")
    indices = [int(index) for index in given]
    if not all(index < len(shared.names) for index in indices):
        raise ValueError(f"indices must lie within 0 and {len(shared.names) - 1}")
    names = [shared.names[index] for index in indices]
    merged = {**data, "classes": names}
    for field in ("display", "descriptions", "synonyms"):
        known = getattr(shared, field)
        if not isinstance(data.get(field) or {}, dict):
            raise ValueError(f"{field} is a mapping from class names, not {data[field]!r}")
        merged[field] = {name: known[name] for name in names if name in known} | dict(data.get(field) or {})
    if str(wanted.get("numbered", "")).lower() == "true":
        for position, name in enumerate(names):
            merged["synonyms"][name] = [*merged["synonyms"].get(name, []), str(position)]
    return merged


@cache
def imagenet_classes() -> SharedClasses:
    """OpenAI's names of the 1000 classes (open_clip), WordNet's synonyms and glosses (timm), in index order.

    Two names stand for two classes each; the second word of WordNet tells these apart, and prompts keep OpenAI's name.
    A class's WordNet id is a synonym too, since ImageNet's folders are named so. Words that mean several classes
    ("crane") are no synonym of any.
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    ids = [info.index_to_label_name(index) for index in range(len(IMAGENET_CLASSNAMES))]
    lemmas = [info.label_name_to_description(id_, detailed=False).split(", ") for id_ in ids]
    counts = Counter(name.casefold() for name in IMAGENET_CLASSNAMES)
    names = [
        name if counts[name.casefold()] == 1 else _distinct(name, words)
        for name, words in zip(IMAGENET_CLASSNAMES, lemmas, strict=True)
    ]
    uses = Counter(word.casefold() for words in lemmas for word in words)
    taken = {name.casefold() for name in names}
    return SharedClasses(
        names=tuple(names),
        display={name: plain for name, plain in zip(names, IMAGENET_CLASSNAMES, strict=True) if name != plain},
        descriptions={
            name: info.label_name_to_description(id_, detailed=True).partition(": ")[2]
            for name, id_ in zip(names, ids, strict=True)
        },
        synonyms={
            name: [word for word in words if uses[word.casefold()] == 1 and word.casefold() not in taken] + [id_]
            for name, words, id_ in zip(names, lemmas, ids, strict=True)
        },
    )


def _distinct(name: str, words: list[str]) -> str:
    """ "missile" (of a launcher) and "missile (projectile)"; WordNet's first word tells which."""
    return name if words[0].casefold() == name.casefold() else f"{name} ({words[0]})"
