"""Texts of the classes that a recipe's labelled sources hold: names, descriptions, ancestors in WordNet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import yaml
from timm.data import ImageNetInfo

from retroclip.errors import RetroclipError
from retroclip.tasks.task import label_key
from retroclip.tasks.wordnet import Synset, ancestors, read_nouns, read_senses, synset_of
from retroclip.training.prompts import prompt

WNID = re.compile(r"n\d{8}")
DEPTHS = range(6, 15)  # from WordNet's root: "entity" and "organism" say nothing of a picture, deeper are the leaves


def imagenet_id(key: str) -> str | None:
    """The first WordNet id in a key, in ImageNet's form."""
    found = WNID.search(key)
    return found[0] if found else None


class ClassTexts:
    """`names`, one a class, in order; identical texts are one class [D].

    Labels of one name are one class, unless descriptions are used (`gloss_share`) and tell them apart, as the crane
    that wades from the one that lifts: then each is a class whose text always has its description.

    `labels`: (label, key) of every labelled row. A row's synset is the one `synsets` (name → id) gives, else the
    ImageNet id in its key, else the first sense of its name that ImageNet-22k has pictures of. `descriptions`: YAML,
    name or ImageNet id → sentence, before WordNet's glosses.
    """

    def __init__(
        self,
        labels: Iterable[tuple[str, str]],
        *,
        wordnet: Path | None = None,
        synsets: Mapping[str, str] | None = None,
        descriptions: Path | None = None,
        gloss_share: float = 0.0,
    ) -> None:
        written: dict[str, dict[str | None, str]] = {}
        for label, key in labels:
            written.setdefault(label_key(label), {}).setdefault(imagenet_id(key), label)
        self.gloss_share = gloss_share
        self._given = {label_key(name): id_ for name, id_ in (synsets or {}).items()}
        self._described = _read_descriptions(descriptions)
        self.synsets: dict[str, Synset] = {}
        if wordnet is not None:
            self.synsets, self._senses = read_nouns(wordnet), read_senses(wordnet)
            if unknown := [id_ for id_ in self._given.values() if id_ not in self.synsets]:
                raise RetroclipError(f"synsets: {wordnet} has no noun {unknown[0]!r}: write its id, such as 02084071")
            self._pictured = set(ImageNetInfo("imagenet-22k").label_names())
        self.names: list[str] = []
        self.synset: list[str | None] = []
        self.glosses: list[str | None] = []
        self.shares_name: list[bool] = []
        self.number: dict[tuple[str, str | None], int] = {}
        for form, own in sorted(written.items()):
            self._add(form, own)
        self.paths = [ancestors(node, self.synsets) if node else [] for node in self.synset]

    def _add(self, form: str, written: dict[str | None, str]) -> None:
        """The classes of one name, of which `written` has the ids in its keys, each with the label as written."""
        first = len(self.names)
        name = next(iter(written.values()))
        ids = list(written)[:1]
        if self.gloss_share:
            ids = [*sorted(filter(None, written))]
        if len(ids) != 1 and None in written:
            ids.append(None)  # rows without id mean the only one there is, or what the name means first
        meanings = [(id_, self._synset_of(form, id_)) for id_ in ids]
        glosses = [self._gloss(form, id_, node) for id_, node in meanings]
        classes: dict[str | None, int] = {}
        for (_, node), gloss in zip(meanings, glosses, strict=True):
            if gloss not in classes and (gloss is not None or not any(glosses)):
                classes[gloss] = len(self.names)
                self.names.append(name)
                self.synset.append(node)
                self.glosses.append(gloss)
        self.shares_name += [len(classes) > 1] * len(classes)
        # What has no description of its own can't be told from its namesakes: it belongs to the first of them.
        for (id_, _), gloss in zip(meanings, glosses, strict=True):
            self.number[form, id_] = classes.get(gloss, first)
        self.number.setdefault((form, None), first)

    def _synset_of(self, form: str, id_: str | None) -> str | None:
        if not self.synsets:
            return None
        known = self._given.get(form) or (id_ if id_ in self.synsets else None)
        return known or synset_of(form, self._senses, self._pictured)

    def _gloss(self, form: str, id_: str | None, node: str | None) -> str | None:
        named = (self._described.get(name) for name in (self._given.get(form) or id_ or node, form) if name)
        return next(filter(None, named), None) or (self.synsets[node].gloss if node else None)

    def index(self, label: str, key: str = "") -> int:
        """The class of a labelled row."""
        form = label_key(label)
        return self.number.get((form, imagenet_id(key)), self.number[form, None])

    def draw(self, position: int, rng: np.random.Generator) -> str:
        """A text for a class."""
        share = 1.0 if self.shares_name[position] else self.gloss_share
        return prompt(self.names[position], self.glosses[position], rng, gloss_share=share)

    def cut(self, classes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Ancestors of classes (B,) at one random depth: their numbers (B,), −1 for a class without, and their texts.

        Nodes of one depth don't contain each other, so that exactly one of the texts is true of each picture.
        """
        deepest = max((len(path) for path in self.paths), default=0)
        depth = int(rng.integers(DEPTHS.start, max(DEPTHS.start + 1, min(deepest, DEPTHS.stop))))
        nodes = [path[min(depth, len(path) - 1)] if (path := self.paths[c]) else None for c in classes]
        known = sorted({node for node in nodes if node is not None})
        number = {node: position for position, node in enumerate(known)}
        texts = [prompt(self._any_name(node, rng), None, rng) for node in known]
        return np.array([number[node] if node is not None else -1 for node in nodes]), texts

    def _any_name(self, node: str, rng: np.random.Generator) -> str:
        lemmas = self.synsets[node].lemmas
        return lemmas[0] if rng.random() < 0.5 else lemmas[rng.integers(len(lemmas))]


def _read_descriptions(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    if not file.is_file():
        raise RetroclipError(f"{file}: no such file of descriptions")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RetroclipError(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise RetroclipError(f"{file}: descriptions are a mapping, class name: sentence")
    return {label_key(str(name)): str(sentence).rstrip(".") for name, sentence in content.items()}
