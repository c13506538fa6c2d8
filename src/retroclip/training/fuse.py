"""Fuse: train a fusion on cached embeddings and cached neighbours, the encoder frozen (RECO, section 3.2; RA-CLIP)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from retroclip.encoders.precision import DTYPES, has_fast_bf16
from retroclip.errors import MemoryStoreError
from retroclip.fusion import Fusion, MemoryEncoder, Neighbours, build_fusion
from retroclip.fusion.relevance import as_relevant
from retroclip.training.distributed import shared_out, start
from retroclip.training.loop import fit
from retroclip.training.losses import class_aware_loss, reco_loss

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.memory import Memory
    from retroclip.memory.opened import Modality

SIDES: tuple[Modality, ...] = ("image", "text")
RELEVANCE = 0.5
"""β of `fusion.relevance` for RECO's identity start, chosen on slices of `train` (docs/decisions.md)."""


@dataclass
class FusionExamples:
    """Training pairs with both embeddings (m, d), their neighbours on each side, and `labels` (m,), one a text.

    `relevant`: how far each side's neighbours count (m,), see `MemoryEncoder.relevant`.
    """

    embeddings: dict[Modality, Tensor]
    neighbours: dict[Modality, Neighbours]
    relevant: dict[Modality, Tensor | None]
    labels: Tensor

    def batches(self, batch_size: int, seed: int) -> Callable[[int], Iterator[Tensor]]:
        """Rows of an epoch: shuffled, in batches of nearly equal size."""
        count = -(-len(self.labels) // batch_size)

        def epoch(number: int) -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            yield from torch.randperm(len(self.labels), generator=generator).tensor_split(count)

        return epoch


class FusionObjective(nn.Module):
    """RECO's three-term loss (CLIP's where only images are refined), plus the squared distance from the start.

    `products`: the number format of the large products in it, "bf16" where that is clearly faster and "fp32" elsewhere.
    """

    def __init__(self, fusion: Fusion, examples: FusionExamples, scale: float, anchor: float) -> None:
        super().__init__()
        self.fusion = fusion
        self._examples, self._scale, self._anchor = examples, scale, anchor
        self.products = "bf16" if has_fast_bf16(examples.labels.device) else "fp32"
        self._start = {name: value.detach().clone() for name, value in fusion.named_parameters()} if anchor else {}

    def refined(self, side: Modality, rows: Tensor) -> Tensor:
        """The embeddings of one side that the fusion has, fused (B, d)."""
        query = self._examples.embeddings[side][rows]
        near, relevant = self._examples.neighbours[side], self._examples.relevant[side]
        refined = self.fusion(
            query, near.values[rows], keys=near.keys[rows], side=side, mask=near.mask[rows], scores=near.scores[rows]
        )
        return refined if relevant is None else as_relevant(query, refined, relevant[rows])

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        v, t = (self._examples.embeddings[side][rows] for side in SIDES)
        labels = self._examples.labels[rows]
        products = DTYPES[self.products]
        refined_v, refined_t = (
            shared_out(partial(self.refined, side), rows) if side in self.fusion.sides else embedded
            for side, embedded in zip(SIDES, (v, t), strict=True)
        )
        if len(self.fusion.sides) == 2:
            loss = reco_loss(refined_v, refined_t, v, t, self._scale, labels=labels, products=products)
        else:
            loss = class_aware_loss(refined_v, refined_t, labels, self._scale, products=products)
        moved = [(p - self._start[name]).square().sum() for name, p in self.fusion.named_parameters() if self._start]
        return {"loss": loss + self._anchor * sum(moved, start=loss.new_zeros(())), "contrast": loss}


def fuse(
    encoder: Encoder,
    memory: Memory,
    *,
    kind: str = "reco",
    train: Any = None,
    k: int = 10,
    k_text: int | None = None,
    search: str = "uni-modal",
    values: str = "cross-modal",
    relevance: float | None = None,
    epochs: int = 10,
    batch_size: int = 4096,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    anchor: float = 1e-3,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
    **options: Any,
) -> MemoryEncoder:
    """An encoder that consults `memory` through a fusion of `kind` "reco" or "ra-clip"; "mean" and "centred-mean" train
    nothing.

    `train` is another Memory (made by the same encoder) or sources of pairs to train on; default: the memory's own
    pairs, each without itself and its near-duplicates (image cosine > 0.95) among its neighbours. `options` go to the
    fusion (`init`, `heads`, `weight`, …); `anchor` is the weight decay towards where it starts,
    for init="identity" [D]. `search`, `values` and `relevance`: see `MemoryEncoder`; by default `RELEVANCE` for
    init="identity" and 0 for everything else, as published. RA-CLIP's input has a `length` of √d, as numbers of unit
    variance have, unless told otherwise [D]. Under `torchrun` the processes share each batch's rows out, and all return
    the same encoder.

    Raises MemoryStoreError if the memory was made by another model or has no captions.

    >>> refined = fuse(encoder, memory, kind="mean")
    >>> evaluate(refined, task, "labelled/").memory_pairs
    20
    """
    start()
    torch.manual_seed(seed)
    if kind == "ra-clip":
        options = {"length": encoder.dim**0.5} | options
    fusion = build_fusion(kind, dim=encoder.dim, **options)
    fusion.prepare(memory)
    identity = fusion.options.get("init") == "identity"
    settings: dict[str, Any] = {"k": k, "k_text": k_text, "search": search, "values": values}
    settings["relevance"] = (RELEVANCE if identity else 0.0) if relevance is None else relevance
    fused = MemoryEncoder(encoder, memory, fusion, **settings)
    if not fused.trained_parameters:
        return fused
    examples = fusion_examples(fused, encoder, memory, train)
    pulled = anchor if identity else 0.0
    steps = epochs * -(-len(examples.labels) // batch_size)
    objective = FusionObjective(fusion, examples, encoder.logit_scale, pulled)
    fused.products = objective.products
    fused.history = fit(
        objective,
        examples.batches(batch_size, seed),
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        betas=(0.9, 0.98),
        warmup=round(0.1 * steps),
        checkpoint=checkpoint,
        save_every=max(1, steps // 20),
        log_every=max(1, steps // 100),
        on_log=on_log,
        seed=seed,
    )
    fusion.requires_grad_(False)
    return fused


def fusion_examples(fused: MemoryEncoder, encoder: Encoder, memory: Memory, train: Any = None) -> FusionExamples:
    """Embeddings and neighbours of the training pairs, without each pair itself and its near-duplicates.

    Raises MemoryStoreError if another memory to train on was made by another model, or no pair has a caption.
    """
    if train is None:
        return _examples_of(fused, memory, own=True)
    if hasattr(train, "check_encoder"):
        train.check_encoder(encoder)
        return _examples_of(fused, train, own=False)
    from retroclip.memory import Memory

    sources = [train] if isinstance(train, str | Path) else train
    with tempfile.TemporaryDirectory(prefix="retroclip-fuse-") as folder:
        return _examples_of(fused, Memory.create(Path(folder) / "train", encoder, sources, images="none"), own=False)


def _examples_of(fused: MemoryEncoder, pairs: Memory, *, own: bool) -> FusionExamples:
    ids = pairs.ids()[np.asarray(pairs.has_text())]
    if not len(ids):
        raise MemoryStoreError("none of the pairs to train the fusion on has a caption: add captions, or name others")
    embeddings = {side: pairs.embeddings(ids, of=side) for side in SIDES}
    itself, images = ids if own else None, embeddings["image"]
    near = {side: fused.others(embeddings[side], side, images=images, itself=itself) for side in fused.fusion.sides}
    if own:
        for side, found in near.items():
            fused.density.remember(side, ids, found.scores, found.ids)
    relevant = {side: fused.relevant(found, side) for side, found in near.items()}
    texts = pairs.take(ids, ["captions"])["captions"].to_pylist()
    number = {text: label for label, text in enumerate(dict.fromkeys(map(tuple, texts)))}
    return FusionExamples(embeddings, near, relevant, torch.tensor([number[tuple(text)] for text in texts]))
