"""RA-CLIP in pre-training: a tenth of the captioned pairs becomes the reference set that the others look up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from retroclip.encoders import Encoder, load
from retroclip.errors import RetroclipError
from retroclip.files import whole_file
from retroclip.fusion.reference import ReferenceAugmentation
from retroclip.training.distributed import is_main, wait
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.objective import PretrainObjective
from retroclip.training.pretraining.recipe import RaClipRecipe


class References:
    """The held-out pairs and what each training image finds among them.

    `held` and `kept` are the rows of each source that are reference and that train; `neighbours` (n, k) the rows of the
    reference set for each row of a source. The retriever sees the plain views of `cache_size` pixels.
    """

    def __init__(self, recipe: RaClipRecipe, corpora: list[Corpus], dim: int) -> None:
        self.retriever: Encoder = load(recipe.retriever)
        rng = np.random.default_rng(recipe.seed)
        shuffled = [rng.permutation(len(corpus)) for corpus in corpora]
        shares = [
            round(recipe.reference * len(corpus)) if corpus.source.text == "captions" else 0 for corpus in corpora
        ]
        self.held = [np.sort(rows[:share]) for rows, share in zip(shuffled, shares, strict=True)]
        self.kept = [np.sort(rows[share:]) for rows, share in zip(shuffled, shares, strict=True)]
        if not sum(map(len, self.held)):
            raise RetroclipError("ra-clip needs a captioned source that is large enough to hold out a reference set")
        images = [self._embedded(corpus, recipe.work / "retriever") for corpus in corpora]
        texts = [
            str(corpus.rows[row]["captions"][0])
            for corpus, held in zip(corpora, self.held, strict=True)
            for row in held
        ]
        reference = torch.cat([rows[held] for rows, held in zip(images, self.held, strict=True)])
        options = {"k": recipe.k, "heads": recipe.heads, "blocks": recipe.blocks}
        torch.manual_seed(recipe.seed)
        self.augmentation = ReferenceAugmentation(dim, reference, self.retriever.encode_texts(texts), **options)
        self.neighbours = [self.augmentation.nearest(rows) for rows in images]

    def _embedded(self, corpus: Corpus, folder: Path) -> Tensor:
        """The retriever's embeddings (n, r) of a source's images, kept on disk once they are there."""
        file = folder / f"{corpus.name}-{self.retriever.fingerprint[:8]}.npy"
        if not file.exists() and is_main():
            folder.mkdir(parents=True, exist_ok=True)
            parts = [
                self.retriever.encode_images(
                    [Image.fromarray(corpus.pixels[row].transpose(1, 2, 0)) for row in range(start, stop)]
                ).numpy()
                for start in range(0, len(corpus.rows), 512)
                for stop in [min(start + 512, len(corpus.rows))]
            ]
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, np.concatenate(parts))
        wait()
        return torch.from_numpy(np.load(file))

    def found(self, drawn: list[np.ndarray]) -> Tensor:
        """Reference rows (B, k) of a batch's images, in its order."""
        return torch.cat([near[rows] for near, rows in zip(self.neighbours, drawn, strict=True)])


class RaClipObjective(PretrainObjective):
    """The loss of `PretrainObjective` on augmented images, v + a^T + a^I; texts are not augmented (RA-CLIP)."""

    def __init__(self, model: Any, recipe: RaClipRecipe, classes: int, references: References, *, bf16: bool) -> None:
        super().__init__(model, recipe, classes, bf16=bf16)
        self.augmentation = references.augmentation
        self._references = (references,)  # in a tuple: the retriever is neither trained nor checkpointed

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        batch = self.placed(batch)
        raw = self.encode_images(batch)
        neighbours = self._references[0].found(batch["rows"])
        return self.loss(self.augmentation(F.normalize(raw, dim=-1), neighbours), raw, batch)
