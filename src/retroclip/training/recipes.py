"""Recipes of customization: what `customize` sets unless told otherwise, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retroclip.errors import RetroclipError
from retroclip.training.tuning import TUNINGS

ANEW = "anew"
"""For `views`: a new augmented view of each image at every epoch, made when it is needed, and no plain one."""
REACT_LOSS: dict[str, Any] = {
    "positives": "class",
    "class_texts": 0.0,
    "distillation": 0.0,
    "others": math.inf,
    "borrow": math.inf,
    "token_drop": 0.0,
}
OURS: dict[str, Any] = {
    "epochs": 5,
    "fewest_steps": 30,
    "batch_size": 128,
    "weight_decay": 0.05,
    "warmup": 0.1,
    "eps": 1e-8,
    "views": 0,
    "augmentation": "mild",
    "micro_batch": None,
}
RECIPES: dict[str, dict[str, Any]] = {
    "react": OURS | REACT_LOSS,
    "anchored": OURS
    | {
        "positives": "named",
        "class_texts": 1.0,
        "distillation": 3.0,
        "others": 1.0,
        "borrow": 0.3,
        "token_drop": 0.5,
    },
    "react-published": REACT_LOSS
    | {
        "epochs": 32,
        "fewest_steps": 0,
        "batch_size": 4096,
        "weight_decay": 0.05,
        "warmup": 5000 / (32 * 10_000_000 / 4096),
        "eps": 1e-6,
        "views": ANEW,
        "augmentation": "react",
        "micro_batch": 64,
    },
}
"""REACT's loss under our rates, for some thousand pairs; ours [D], which also reads the class names and stays near the
untuned model (docs/decisions.md); and all that REACT's authors publish, for millions of pairs: loss, rates, batches,
epochs, warm-up (5,000 of the 78,125 steps that 10 M pairs make, as a share), AdamW's ε and augmentation. For fewer
pairs the paper raises the epochs until there are about as many steps. Batches go through the model in parts there,
which changes nothing but the room they take. Five epochs of ours are a few steps on a hundred pairs, too few for gates,
which start closed: unless told how many epochs, these take `fewest_steps` at least (docs/decisions.md)."""


def chosen(recipe: str, tuning: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a tuning: those `given` that aren't None, and the recipe's. RetroclipError for an unknown one."""
    if recipe not in RECIPES:
        raise RetroclipError(f"no recipe is called {recipe!r}: choose one of {', '.join(RECIPES)}")
    rates = TUNINGS[tuning]
    settings = RECIPES[recipe] | {"lr": rates.published if recipe == "react-published" else rates.lr}
    return settings | {name: value for name, value in given.items() if value is not None}
