"""Customize: tune a model on the pairs that were retrieved for a task (REACT, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from retroclip.errors import RetroclipError
from retroclip.training.loop import fit
from retroclip.training.losses import multi_positive_loss, positives
from retroclip.training.tuning import TUNINGS, Towers
from retroclip.training.views import cache_views

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved


@dataclass
class Examples:
    """The pairs as the objective sees them, everything frozen already computed.

    `images` (views, m, …), what `Towers.image` takes; `texts` (c, …), what `Towers.text` takes, one row a distinct
    caption; `captions`: for each pair its rows of `texts`; `labels` (m,) class of each pair, −1 for none.
    """

    images: Tensor
    texts: Tensor
    captions: list[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, seed: int) -> Callable[[int], Iterator[dict[str, Tensor]]]:
        """The batches of an epoch: shuffled, of nearly equal size, a random view and caption of each pair."""
        count = -(-len(self) // batch_size)

        def epoch(number: int) -> Iterator[dict[str, Tensor]]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            order = torch.randperm(len(self), generator=generator)
            for rows in order.tensor_split(count):
                view = torch.randint(len(self.images), (len(rows),), generator=generator)
                draw = torch.rand(len(rows), generator=generator)
                own = [self.captions[row] for row in rows.tolist()]
                caption = torch.stack([c[int(u * len(c))] for c, u in zip(own, draw.tolist(), strict=True)])
                yield {"image": self.images[view, rows], "text": self.texts[caption], "label": self.labels[rows]}

        return epoch


class Contrast(nn.Module):
    """The class-aware loss of a batch. Only what is trained is registered, so that only that is optimised and saved."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.trained = nn.ParameterList(towers.trained())
        self._towers = (towers,)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        (towers,) = self._towers
        u, v = towers.image(batch["image"]), towers.text(batch["text"])
        loss = multi_positive_loss(u, v, positives(batch["label"].to(u.device)), towers.scale())
        return {"loss": loss, "logit_scale": towers.scale()}


def customize(
    encoder: Encoder,
    retrieved: Retrieved,
    *,
    tuning: str = "gated-image",
    epochs: int = 10,
    batch_size: int = 256,
    lr: float | None = None,
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    gates: int = 6,
    views: int = 2,
    seed: int = 0,
    checkpoint: Path | None = None,
    save_every: int = 500,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> Encoder:
    """A copy of `encoder` tuned on retrieved pairs: REACT's loss, the class of a pair being the one that best found it.

    `tuning` is one of `TUNINGS`. `views` augmented views of each image are made beforehand, besides the plain one,
    and one is drawn at each step: so whatever is frozen is computed once a view. `warmup` is a share of all steps.
    Pairs without caption are left out. The result has `history` and `trained_parameters`; `encoder` itself isn't
    touched.

    Raises RetroclipError for an unknown tuning or no usable pair, ModelError where a tower can't be gated.
    """
    if tuning not in TUNINGS:
        raise RetroclipError(f"no tuning is called {tuning!r}: choose one of {', '.join(TUNINGS)}")
    torch.manual_seed(seed)
    towers = Towers(encoder, TUNINGS[tuning], gates=gates)
    examples = prepare(towers, retrieved, views=views, seed=seed)
    steps = epochs * -(-len(examples) // batch_size)
    objective = Contrast(towers)
    history = fit(
        objective,
        examples.batches(batch_size, seed),
        steps=steps,
        lr=TUNINGS[tuning].lr if lr is None else lr,
        weight_decay=weight_decay,
        betas=(0.9, 0.98),
        warmup=round(warmup * steps),
        after_step=towers.clamp_scale,
        checkpoint=checkpoint,
        save_every=save_every,
        log_every=max(1, steps // 100),
        on_log=on_log,
        seed=seed,
    )
    trained = sum(parameter.numel() for parameter in towers.trained())
    towers.model.requires_grad_(False)
    custom = encoder.with_model(towers.model, name=f"{encoder.name} customized ({tuning}) for {retrieved.task.name}")
    custom.history, custom.trained_parameters = history, trained
    return custom


def prepare(towers: Towers, retrieved: Retrieved, *, views: int, seed: int) -> Examples:
    """Cache what the tuning keeps frozen. Raises RetroclipError if no pair has both an image and a caption."""
    usable = [row for row, own in enumerate(retrieved.captions) if own and retrieved.images[row] is not None]
    if not usable:
        raise RetroclipError(
            f"none of the {len(retrieved)} pairs retrieved for task {retrieved.task.name!r} has an image and a caption:"
            " retrieve from a memory of captioned pairs that keeps its images"
        )
    images = cache_views(
        towers.encoder,
        [image for row in usable if (image := retrieved.images[row]) is not None],
        stage=towers.stage,
        start=towers.start,
        views=views,
        seed=seed,
    )
    captions = [retrieved.captions[row] for row in usable]
    distinct = {caption: row for row, caption in enumerate(dict.fromkeys(c for own in captions for c in own))}
    encoder: Any = towers.encoder
    texts = encoder.encode_texts(list(distinct)) if towers.texts_locked else encoder.tokenizer(list(distinct))
    return Examples(
        images=images,
        texts=texts,
        captions=[torch.tensor([distinct[caption] for caption in own]) for own in captions],
        labels=retrieved.label[usable],
    )
