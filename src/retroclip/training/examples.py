"""Retrieved pairs as customization sees them: everything that a tuning keeps frozen already computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retroclip.classifiers import class_texts
from retroclip.errors import RetroclipError
from retroclip.training.evidence import Evidence, borrow_captions, evidence
from retroclip.training.tuning import Towers, is_hybrid
from retroclip.training.views import NewViews, advance, cache_views

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved


@dataclass
class Examples:
    """m pairs and what belongs to them.

    `images` (views, m, …), or what makes them, and `texts` (c, …), one row a distinct caption, are what `Towers.image`
    and `Towers.text` take, and so is `prompts`, one row a class; `captions`: for each pair its rows of `texts`;
    `labels` (m,): the class that best found it; `named`, `trust` (m,): see `Evidence`; `base` (m, d): the untuned
    model's image embeddings.
    """

    images: Tensor | NewViews
    texts: Tensor
    prompts: Tensor
    captions: list[Tensor]
    labels: Tensor
    named: Tensor
    trust: Tensor
    base: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> Tensor:
        """How many pairs name each class and no other (K,)."""
        return torch.bincount(self.named[self.named >= 0], minlength=len(self.prompts))

    def batches(self, batch_size: int, seed: int) -> Callable[[int], Iterator[dict[str, Tensor]]]:
        """The batches of an epoch: shuffled, of nearly equal size, a random view and caption of each pair."""
        count = -(-len(self) // batch_size)

        def epoch(number: int) -> Iterator[dict[str, Tensor]]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            order = torch.randperm(len(self), generator=generator)
            for rows in order.tensor_split(count):
                if isinstance(self.images, NewViews):
                    images = self.images.at(number, rows)
                else:
                    view = torch.randint(len(self.images), (len(rows),), generator=generator)
                    images = self.images[view, rows]
                draw = torch.rand(len(rows), generator=generator)
                own = [self.captions[row] for row in rows.tolist()]
                caption = torch.stack([c[int(u * len(c))] for c, u in zip(own, draw.tolist(), strict=True)])
                per_pair = {name: getattr(self, name)[rows] for name in ("labels", "named", "trust", "base")}
                yield {"images": images, "texts": self.texts[caption], **per_pair}

        return epoch


def prepare(
    towers: Towers,
    retrieved: Retrieved,
    *,
    views: int | str = 0,
    augmentation: str = "mild",
    cleaned: bool = False,
    others: float = math.inf,
    borrow: float = math.inf,
    seed: int = 0,
) -> Examples:
    """Choose the usable pairs, weigh them, and cache what the tuning keeps frozen.

    `views`: a number, or "anew" for `NewViews`. Pairs without caption are left out. For each pair that names a class at
    most `others` are kept that name none, drawn by `seed`. `borrow`: see `borrow_captions`; above 1 nothing is
    borrowed. Raises RetroclipError if no pair has both an image and a caption.
    """
    usable = [row for row, own in enumerate(retrieved.captions) if own and retrieved.images[row] is not None]
    if not usable:
        raise RetroclipError(
            f"none of the {len(retrieved)} pairs retrieved for task {retrieved.task.name!r} has an image and a caption:"
            " retrieve from a memory of captioned pairs that keeps its images"
        )
    base = _base_embeddings(towers.encoder, retrieved, usable)
    captions = [retrieved.captions[row] for row in usable]
    if borrow <= 1:
        captions = borrow_captions(captions, base, retrieved.task, share=borrow)
    found = evidence(captions, base, retrieved.task, cleaned=cleaned)
    kept = _kept(found, others, seed)
    rows = [usable[row] for row in kept.tolist()]
    captions = [captions[row] for row in kept.tolist()]
    distinct = {caption: row for row, caption in enumerate(dict.fromkeys(c for own in captions for c in own))}
    return Examples(
        images=_views(towers, retrieved, rows, views, augmentation, seed),
        texts=_as_towers_take(towers, list(distinct)),
        prompts=_class_prompts(towers, retrieved.task),
        captions=[torch.tensor([distinct[caption] for caption in own]) for own in captions],
        labels=retrieved.label[rows],
        named=found.named[kept],
        trust=found.trust[kept],
        base=base[kept],
    )


def _views(
    towers: Towers, retrieved: Retrieved, rows: list[int], views: int | str, augmentation: str, seed: int
) -> Tensor | NewViews:
    """`cache_views` of the images in `rows`; kept for a further tuning of the same model on the same pairs.

    Over a convolutional net, which is most of the work, what is kept are the tokens before the first block.
    """
    images = [image for row in rows if (image := retrieved.images[row]) is not None]
    if isinstance(views, str):
        return NewViews(towers.encoder, images, towers.stage, towers.start, seed, augmentation)
    stage, first = towers.stage, 0 if is_hybrid(towers.model.visual) else towers.start
    key = (towers.encoder.fingerprint, stage, first, views, (augmentation, seed) if views else None, tuple(rows))
    if key not in retrieved.cached:
        options: dict[str, Any] = {"views": views, "augmentation": augmentation, "seed": seed}
        retrieved.cached[key] = cache_views(towers.encoder, images, stage=stage, start=first, **options)
    tokens = retrieved.cached[key]
    if first == towers.start:
        return tokens
    return advance(towers.encoder, tokens.flatten(0, 1), first, towers.start).reshape(tokens.shape)


def _base_embeddings(encoder: Encoder, retrieved: Retrieved, rows: list[int]) -> Tensor:
    """The memory's own embeddings where this encoder made it, else fresh ones."""
    if retrieved.provenance.get("fingerprint") == encoder.fingerprint:
        return retrieved.image_embeddings[rows]
    return encoder.encode_images([image for row in rows if (image := retrieved.images[row]) is not None])


def _kept(found: Evidence, others: float, seed: int) -> Tensor:
    """Rows of the pairs to train on, ascending: all that name a class, and so many of the others."""
    named, rest = torch.nonzero(found.named >= 0).flatten(), torch.nonzero(found.named < 0).flatten()
    # Without any named pair there is no measure for how many others are too many.
    if not len(named) or len(rest) <= others * len(named):
        return torch.arange(len(found.named))
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    return torch.cat([named, rest[order[: round(others * len(named))]]]).sort().values


def _as_towers_take(towers: Towers, texts: list[str]) -> Tensor:
    encoder: Any = towers.encoder
    return encoder.encode_texts(texts) if towers.texts_locked else encoder.tokenizer(texts)


def _class_prompts(towers: Towers, task: Any) -> Tensor:
    """The task's zero-shot head if texts are locked, else the tokens of each class's first prompt."""
    if towers.texts_locked:
        return class_texts(towers.encoder, task)
    return _as_towers_take(towers, [task.prompts(name)[0] for name in task.classes])
