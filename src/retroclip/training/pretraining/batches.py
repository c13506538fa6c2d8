"""The batches of a pre-training recipe: a function of the step, of which every process renders its own share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retroclip.training.distributed import own_rows
from retroclip.training.pretraining.corpus import Corpus, Order
from retroclip.training.pretraining.recipe import PretrainRecipe
from retroclip.training.pretraining.texts import ClassTexts
from retroclip.training.pretraining.views import coarsened, cropped, crops, jittered, rand_augmented


class Batches:
    """`at(step)` gives a dict: `pixels`, `captions` and `names` (token ids), of each this process's share of `counts`.

    `labels` (B,) is each image's row among the class texts of the step, −1 for a captioned one; `allowed` (B', K) says
    which classes a labelled image is told from: those of its own source; `owned` (B', K) says it of all K classes, for
    split heads. `cut` and `cut_labels` are the same over
    ancestors. Images come in the order of the sources; captions belong to the captioned ones in that order.
    """

    length = 50  # batches an epoch: a resumed run draws the epoch's again up to where it was

    def __init__(
        self,
        recipe: PretrainRecipe,
        corpora: list[Corpus],
        texts: ClassTexts,
        tokenize: Callable[[list[str]], Tensor],
        normalise: tuple[Tensor, Tensor],
        size: int,
        kept: list[np.ndarray] | None = None,
    ) -> None:
        self.recipe, self.corpora, self.texts, self.tokenize, self.size = recipe, corpora, texts, tokenize, size
        self.mean, self.std = normalise
        # the rows of each source that train; without `kept` all of them
        self.kept = [np.arange(len(corpus)) for corpus in corpora] if kept is None else kept
        self.orders = [
            Order(len(self.kept[number]), corpus.source.share, recipe.seed * 1009 + number)
            for number, corpus in enumerate(corpora)
        ]
        self.classes = [
            np.array([texts.index(row["label"], row["key"]) for row in corpus.rows])
            if corpus.source.text == "labels"
            else None
            for corpus in corpora
        ]

    def __call__(self, epoch: int) -> Iterator[dict[str, Any]]:
        for step in range(epoch * self.length, (epoch + 1) * self.length):
            yield self.at(step)

    def at(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.recipe.seed, step])
        drawn = [kept[order.rows(step)] for kept, order in zip(self.kept, self.orders, strict=True)]
        captions = [
            str(rng.choice(corpus.rows[row]["captions"]))
            for corpus, rows in zip(self.corpora, drawn, strict=True)
            if corpus.source.text == "captions"
            for row in rows
        ]
        batch: dict[str, Any] = {"counts": {"pixels": sum(map(len, drawn))}, "rows": drawn}
        batch |= self._classes(drawn, rng)
        batch |= self._tokens(captions, "captions", batch["counts"])
        batch |= self._tokens(batch.pop("class_texts"), "names", batch["counts"])
        if self.recipe.ancestors:
            batch["cut_labels"], cut = self._cut(drawn, rng)
            batch |= self._tokens(cut, "cut", batch["counts"])
        batch["pixels"] = self._render(drawn, rng)
        return batch

    def _tokens(self, texts: list[str], name: str, counts: dict[str, int]) -> dict[str, Tensor]:
        """This process's share of some texts, as token ids without the columns that no text of it needs."""
        counts[name] = len(texts)
        return {name: self.tokenize(texts[own_rows(len(texts))])}

    def _classes(self, drawn: list[np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
        """The step's classes: those of its images, and `negatives` others (None: all) of each labelled source."""
        labels, sets = [], []
        for own, rows in zip(self.classes, drawn, strict=True):
            labels.append(np.full(len(rows), -1) if own is None else own[rows])
            sets.append(None if own is None else self._told_from(own, own[rows], rng))
        chosen = np.unique(np.concatenate([s for s in sets if s is not None] or [np.zeros(0, int)]))
        allowed = [
            np.repeat(np.isin(chosen, s)[None], len(rows), axis=0)
            for s, rows in zip(sets, drawn, strict=True)
            if s is not None
        ]
        flat = np.concatenate(labels)
        owned = [
            np.repeat(np.isin(np.arange(len(self.texts.names)), own)[None], len(rows), axis=0)
            for own, rows in zip(self.classes, drawn, strict=True)
            if own is not None and self.recipe.classifier != "text"
        ]
        return {
            "owned": torch.from_numpy(np.concatenate(owned)) if owned else None,
            "labels": torch.from_numpy(np.where(flat < 0, -1, np.searchsorted(chosen, flat.clip(0)))),
            "classes": torch.from_numpy(flat),
            "allowed": torch.from_numpy(np.concatenate(allowed)) if allowed else torch.zeros(0, 0, dtype=torch.bool),
            "class_texts": [self.texts.draw(position, rng) for position in chosen],
        }

    def _told_from(self, own: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        everything = np.unique(own)
        if self.recipe.negatives is None:
            return everything
        others = np.setdiff1d(everything, present)
        return np.union1d(present, rng.permutation(others)[: self.recipe.negatives])

    def _cut(self, drawn: list[np.ndarray], rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        shown = [own[rows] for own, rows in zip(self.classes, drawn, strict=True) if own is not None]
        numbers, texts = self.texts.cut(np.concatenate(shown), rng)
        return torch.from_numpy(numbers), texts

    def _render(self, drawn: list[np.ndarray], rng: np.random.Generator) -> Tensor:
        """This process's share of the images, augmented and normalised, (m, 3, size, size)."""
        count, recipe = sum(map(len, drawn)), self.recipe
        boxes = torch.from_numpy(crops(count, recipe.crop, rng)).float()
        flip = torch.from_numpy(rng.random(count) < 0.5)
        factors = torch.from_numpy(rng.uniform(1 - recipe.jitter, 1 + recipe.jitter, (count, 3))).float()
        blurred = torch.from_numpy(rng.random(count) < recipe.coarse)
        own = own_rows(count)
        pixels = torch.cat([corpus.take(rows) for corpus, rows in zip(self.corpora, drawn, strict=True)])[own]
        if recipe.rand_augment:
            pixels = rand_augmented(pixels, recipe.rand_augment, rng.integers(2**32, size=count)[own].tolist())
        views = cropped(pixels.float() / 255, boxes[own], flip[own], self.size)
        if recipe.coarse:
            views = coarsened(views, blurred[own])
        if recipe.jitter:
            views = jittered(views, factors[own])
        return (views - self.mean) / self.std
