"""RA-CLIP in pre-training: a tenth of the pairs becomes the reference set that the others look up."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.encoders import Encoder, load
from retroclip.errors import RetroclipError
from retroclip.files import whole_file
from retroclip.fusion.reference import ReferenceAugmentation
from retroclip.pairs import thumbnail
from retroclip.training.distributed import is_main, wait
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.objective import PretrainObjective
from retroclip.training.pretraining.recipe import RaClipRecipe
from retroclip.training.prompts import PLAIN


class References:
    """The held-out pairs and what each training image finds among them.

    `held` and `kept` are the rows of each source that are reference and that train; `neighbours` (n, k) the rows of the
    reference set for each row of a source. The retriever sees the images as they are stored, as it does when the model
    is used. A labelled pair's text is its class's name in the plain template.
    """

    def __init__(self, recipe: RaClipRecipe, corpora: list[Corpus], dim: int) -> None:
        self.retriever: Encoder = load(recipe.retriever)
        rng = np.random.default_rng(recipe.seed)
        shuffled = [rng.permutation(len(corpus)) for corpus in corpora]
        shares = [round(recipe.reference * len(corpus)) for corpus in corpora]
        self.held = [np.sort(rows[:share]) for rows, share in zip(shuffled, shares, strict=True)]
        self.kept = [np.sort(rows[share:]) for rows, share in zip(shuffled, shares, strict=True)]
        if not sum(shares):
            raise RetroclipError("ra-clip: the sources are too small to hold out a reference set")
        if not all(map(len, self.kept)):
            raise RetroclipError(
                "ra-clip: the reference set leaves a source no pair to train on: take a lower `reference`"
            )
        seen = [self._seen(corpus, recipe.work / "embedded") for corpus in corpora]
        images = [embeddings for embeddings, _ in seen]
        shown = [thumbnails[held] for (_, thumbnails), held in zip(seen, self.held, strict=True)]
        self.thumbnails = torch.from_numpy(np.concatenate(shown))
        texts = [text for corpus, held in zip(corpora, self.held, strict=True) for text in texts_of(corpus, held)]
        reference = torch.cat([rows[held] for rows, held in zip(images, self.held, strict=True)])
        options: dict[str, Any] = {
            "k": recipe.k,
            "heads": recipe.heads,
            "blocks": recipe.blocks,
            "length": recipe.length,
        }
        torch.manual_seed(recipe.seed)
        self.augmentation = ReferenceAugmentation(dim, reference, self.retriever.encode_texts(texts), **options)
        self.neighbours = [self.augmentation.nearest(rows) for rows in images]

    def _seen(self, corpus: Corpus, folder: Path) -> tuple[Tensor, np.ndarray]:
        """The retriever's embeddings (n, r) of a source's images and their thumbnails, kept on disk once made."""
        stem = f"{corpus.name}-{self.retriever.fingerprint[:8]}"
        files = {kind: folder / f"{stem}{kind}.npy" for kind in ("", "-thumbnails")}
        if not all(file.exists() for file in files.values()) and is_main():
            folder.mkdir(parents=True, exist_ok=True)
            pairs = corpus.pairs()
            embeddings, thumbnails = [], []
            while chunk := [cast(bytes, pair.image) for pair in islice(pairs, 512)]:
                embeddings.append(self.retriever.encode_images(chunk).numpy())
                thumbnails.append(np.stack([thumbnail(image) for image in chunk]).astype(np.float16))
            for file, parts in zip(files.values(), (embeddings, thumbnails), strict=True):
                with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                    np.save(stream, np.concatenate(parts))
        wait()
        return torch.from_numpy(np.load(files[""])), np.load(files["-thumbnails"], mmap_mode="r")

    def found(self, drawn: list[np.ndarray]) -> Tensor:
        """Reference rows (B, k) of a batch's images, in its order."""
        return torch.cat([near[rows] for near, rows in zip(self.neighbours, drawn, strict=True)])


def texts_of(corpus: Corpus, rows: np.ndarray) -> list[str]:
    """The texts of reference pairs: first captions, or classes' names in the plain template."""
    chosen = [corpus.rows[row] for row in rows]
    if corpus.source.text == "captions":
        return [str(row["captions"][0]) for row in chosen]
    return [PLAIN.format(row["label"]) for row in chosen]


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
