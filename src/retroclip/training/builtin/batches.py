"""Batches of the builtin's training: cached feature maps, token ids, and the teacher's opinion."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo
from torch import Tensor

from retroclip.tasks.wordnet import read_nouns
from retroclip.training.builtin.features import FeatureCache
from retroclip.training.builtin.recipe import BuiltinRecipe
from retroclip.training.builtin.texts import SynsetTexts
from retroclip.training.prompts import prompt

TRAINED_LENGTH = 20
WNID = re.compile(r"n\d{8}")


class Batches:
    """Batches drawn from all sources; `length` of them make an epoch."""

    length = 100

    def __init__(self, recipe: BuiltinRecipe, caches: list[FeatureCache], tokenize: Callable[[list[str]], Tensor]):
        self.recipe, self.caches, self.tokenize = recipe, caches, tokenize
        leaves = ImageNetInfo().label_names()
        synsets = read_nouns(recipe.wordnet)
        self.leaves, self.texts = leaves, SynsetTexts(leaves, synsets)
        number = {leaf: position for position, leaf in enumerate(leaves)}
        self.leaf = [np.array([_leaf(row["key"], number) for row in cache.rows]) for cache in caches]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        maps, targets, captions, labels = [], [], [], []
        index: dict[str, list[int]] = {"captioned": [], "labelled": [], "distilled": []}
        start = 0
        for source, cache, leaf in zip(self.recipe.sources, self.caches, self.leaf, strict=True):
            rows = rng.choice(len(cache) - source.holdout, source.share, replace=False)
            drawn, logits = cache.take(rows, cache.drawn_views(rng, len(rows), self.recipe.coarse_share))
            maps.append(drawn)
            positions = list(range(start, start + len(rows)))
            start += len(rows)
            if source.text == "captions":
                index["captioned"] += positions
                captions += [str(rng.choice(cache.rows[row]["captions"])) for row in rows]
            elif source.text == "labels":
                index["labelled"] += positions
                labels += [cache.rows[row]["label"] for row in rows]
            if source.distil:
                index["distilled"] += positions
                targets.append(self.soften(logits.softmax(-1), leaf[rows]))
        batch: dict[str, Any] = {"maps": torch.cat(maps), "captions": self.tokenize(captions)}
        if labels:
            names, which = np.unique(labels, return_inverse=True)
            batch |= {
                "names": self.tokenize([prompt(name, None, rng) for name in names]),
                "labels": torch.tensor(which),
            }
        batch["leaves"] = torch.cat(targets)
        return batch | {k: torch.tensor(v) for k, v in index.items()}

    def leaf_texts(self, rng: np.random.Generator) -> Tensor:
        """Token ids of one text for each of the 1000 classes."""
        return self.tokenize([self.texts.draw(leaf, rng) for leaf in self.leaves])

    def soften(self, probabilities: Tensor, leaf: np.ndarray) -> Tensor:
        """Where an image's ImageNet class is known, mix it into the teacher's opinion."""
        known = torch.from_numpy(leaf >= 0)
        truth = F.one_hot(torch.from_numpy(leaf).clamp_min(0), probabilities.shape[1]).float()
        mixed = torch.lerp(probabilities, truth, self.recipe.label_mix)
        return torch.where(known[:, None], mixed, probabilities)


def _leaf(key: str, number: dict[str, int]) -> int:
    found = WNID.search(key)
    return number.get(found[0], -1) if found else -1


def padded_tokenizer(tokenizer: Any) -> Callable[[list[str]], Tensor]:
    """Texts → token ids padded to the longest of them; beyond `TRAINED_LENGTH` tokens they are cut, for speed."""

    def tokenize(texts: list[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": TRAINED_LENGTH, "return_tensors": "pt"}
        return tokenizer(texts, **options)["input_ids"]

    return tokenize
