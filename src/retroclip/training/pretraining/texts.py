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


class ClassTexts:
    """`names`, one a class, in order; identical ones are one class [D].

    `labels`: (label, key) of every labelled row. A class's synset is the one `synsets` (name → id) gives, else the
    ImageNet id in its keys, else the first sense of its name that ImageNet-22k has pictures of. `descriptions`: YAML,
    name → sentence, before WordNet's glosses.
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
        keys: dict[str, tuple[str, str]] = {}
        for label, key in labels:
            keys.setdefault(label_key(label), (label, key))
        self.gloss_share = gloss_share
        self.number = {form: position for position, form in enumerate(sorted(keys))}
        self.names = [keys[form][0] for form in self.number]
        given = {label_key(name): id_ for name, id_ in (synsets or {}).items()}
        self.synsets: dict[str, Synset] = {}
        self.synset: list[str | None] = [None] * len(self.names)
        if wordnet is not None:
            self.synsets, senses = read_nouns(wordnet), read_senses(wordnet)
            pictured = set(ImageNetInfo("imagenet-22k").label_names())
            for position, form in enumerate(self.number):
                found = WNID.search(keys[form][1])
                known = given.get(form) or (found[0] if found and found[0] in self.synsets else None)
                self.synset[position] = known or synset_of(form, senses, pictured)
        described = _read_descriptions(descriptions)
        self.glosses = [described.get(form) or self._gloss(position) for form, position in self.number.items()]
        self.paths = [ancestors(node, self.synsets) if node else [] for node in self.synset]

    def _gloss(self, position: int) -> str | None:
        node = self.synset[position]
        return self.synsets[node].gloss if node else None

    def index(self, label: str) -> int:
        """A label's class."""
        return self.number[label_key(label)]

    def draw(self, position: int, rng: np.random.Generator) -> str:
        """A text for a class."""
        return prompt(self.names[position], self.glosses[position], rng, gloss_share=self.gloss_share)

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
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RetroclipError(f"{file}: descriptions are a mapping, class name: sentence")
    return {label_key(str(name)): str(sentence).rstrip(".") for name, sentence in content.items()}
