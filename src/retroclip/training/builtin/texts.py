"""What the builtin's training says about a class: names from WordNet and ImageNet's list, templates, glosses."""

from __future__ import annotations

import numpy as np
from open_clip import IMAGENET_CLASSNAMES

from retroclip.tasks.wordnet import Synset
from retroclip.training.prompts import prompt


class SynsetTexts:
    """Texts of WordNet nodes; a leaf also goes by the name that ImageNet's list of 1000 gives it."""

    def __init__(self, leaves: list[str], synsets: dict[str, Synset]):
        self.synsets = synsets
        self.listed = dict(zip(leaves, IMAGENET_CLASSNAMES, strict=True))

    def names(self, node: str) -> tuple[str, ...]:
        listed = self.listed.get(node)
        lemmas = self.synsets[node].lemmas
        return (listed, *lemmas) if listed else lemmas

    def draw(self, node: str, rng: np.random.Generator) -> str:
        """A text for `node`: its first name in two of three cases, else any of its names."""
        names = self.names(node)
        name = names[0] if rng.random() < 2 / 3 else names[rng.integers(len(names))]
        return prompt(name, self.synsets[node].gloss, rng)
