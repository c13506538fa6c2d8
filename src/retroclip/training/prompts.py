"""Texts for classes in training: names in templates, at times with a description."""

from __future__ import annotations

import numpy as np
from open_clip import OPENAI_IMAGENET_TEMPLATES

TEMPLATES = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
PLAIN = "a photo of a {}."


def prompt(name: str, gloss: str | None, rng: np.random.Generator, *, gloss_share: float = 0.25) -> str:
    """A text for a class: bare, in the plain template or one of CLIP's 80; at times with its gloss (iCAR, Eq. 5)."""
    draw = rng.random()
    template = "{}" if draw < 0.2 else PLAIN if draw < 0.6 else TEMPLATES[rng.integers(len(TEMPLATES))]
    text = template.replace("{}", name)
    return f"{text.rstrip('.')}, {gloss}" if gloss and rng.random() < gloss_share else text
