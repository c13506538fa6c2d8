"""What the builtin's training says about a class: names from WordNet and ImageNet's list, templates, glosses."""

from __future__ import annotations

import numpy as np
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from retroclip.tasks.wordnet import Synset

TEMPLATES = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
PLAIN = "a photo of a {}."
GLOSS_SHARE = 0.25


def prompt(name: str, gloss: str | None, rng: np.random.Generator) -> str:
    """A text for a class: bare, in the plain template or one of CLIP's 80; at times with its gloss (iCAR, Eq. 5)."""
    draw = rng.random()
    template = "{}" if draw < 0.2 else PLAIN if draw < 0.6 else TEMPLATES[rng.integers(len(TEMPLATES))]
    text = template.replace("{}", name)
    return f"{text.rstrip('.')}, {gloss}" if gloss and rng.random() < GLOSS_SHARE else text


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
