"""What pre-training minimises: iCAR's unified loss over captions and labels; with captions alone it is CLIP's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.encoders.texts import encode_tokens
from retroclip.training.chunks import in_chunks, refuse_batch_norms
from retroclip.training.distributed import gathered
from retroclip.training.losses import unified_loss
from retroclip.training.pretraining.recipe import PretrainRecipe


class PretrainObjective(nn.Module):
    """The model, and with split heads a classifier of its own. `batch` is a dict as `Batches.at` makes it.

    Mixed precision is that of the forward pass only: autocast there, weights and gradients in fp32 (Formal CLIP,
    section 3.7). Embeddings leave it in fp32, so that the loss is computed in full.
    """

    head: nn.Parameter | None

    def __init__(self, model: Any, recipe: PretrainRecipe, classes: int, *, bf16: bool = False) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16
        self.symmetric, self.cut_weight, self.classifier = recipe.symmetric, recipe.ancestors, recipe.classifier
        self.top, self.micro_batch = math.log(recipe.max_scale), recipe.micro_batch
        refuse_batch_norms(model, recipe.micro_batch)
        if recipe.init_scale is not None:
            nn.init.constant_(model.logit_scale, math.log(recipe.init_scale))
        self.head = None
        if recipe.classifier != "text":
            self.head = nn.Parameter(torch.randn(classes, model_dim(model)) / math.sqrt(model_dim(model)))

    def encode_images(self, batch: dict[str, Any]) -> Tensor:
        """Raw image features (B, d) of the whole batch, float32."""
        own = in_chunks(lambda part: self._mixed(self.model.encode_image, part), batch["pixels"], self.micro_batch)
        return gathered(own, batch["counts"]["pixels"])

    def encode_texts(self, batch: dict[str, Any], name: str) -> Tensor:
        """Unit-norm embeddings (C, d) of the whole batch's texts called `name`, float32."""
        own = in_chunks(
            lambda part: self._mixed(partial(encode_tokens, self.model), part), batch[name], self.micro_batch
        )
        return gathered(F.normalize(own, dim=-1), batch["counts"][name])

    def placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        device = self.model.logit_scale.device
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        batch = self.placed(batch)
        raw = self.encode_images(batch)
        return self.loss(F.normalize(raw, dim=-1), raw, batch)

    def loss(self, images: Tensor, raw: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms, from unit-norm images (B, d) and the raw features they come from."""
        counts, scale = batch["counts"], self.model.logit_scale.exp()
        labels, classified = batch["labels"], batch["labels"] >= 0
        captions = self.encode_texts(batch, "captions") if counts["captions"] else images.new_zeros(0, images.shape[1])
        options: dict[str, Any] = {"symmetric": self.symmetric}
        if self.head is not None:
            term = unified_loss(images[~classified], labels[~classified], images, captions, scale, **options)
            share = classified.float().mean()
            loss = (1 - share) * term
            if classified.any():
                own = batch["classes"][classified]
                loss = loss + share * self.split_head(raw[classified], own, batch["owned"], scale)
        else:
            names = self.encode_texts(batch, "names") if counts["names"] else images.new_zeros(0, images.shape[1])
            loss = unified_loss(images, labels, names, captions, scale, allowed=batch["allowed"], **options)
        values = {"loss": loss, "contrast": loss.detach(), "logit_scale": scale.detach()}
        if counts.get("cut"):
            known = batch["cut_labels"] >= 0
            logits = scale * images[classified][known] @ self.encode_texts(batch, "cut").T
            values["ancestors"] = F.cross_entropy(logits, batch["cut_labels"][known])
            values["loss"] = loss + self.cut_weight * values["ancestors"]
        return values

    def split_head(self, features: Tensor, classes: Tensor, owned: Tensor, scale: Tensor) -> Tensor:
        """The classification term of a head of its own: linear (iCAR, Eq. 1) or cosine (Eq. 3), over `owned` classes.

        features (B', d), classes (B',), owned boolean (B', K): of an image's own source, as with the text encoder.
        """
        assert self.head is not None
        if self.classifier == "linear":
            logits = features @ self.head.T
        else:
            logits = scale * F.normalize(features, dim=-1) @ F.normalize(self.head, dim=-1).T
        return F.cross_entropy(logits.masked_fill(~owned, -torch.inf), classes)

    def _mixed(self, encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.bf16):
            return encode(rows).float()

    @torch.no_grad()
    def clamp(self) -> None:
        """τ stays in [1/max_scale, 100]."""
        self.model.logit_scale.clamp_(-math.log(100), self.top)


def model_dim(model: Any) -> int:
    """The embedding's dimension of an open_clip model."""
    text: Any = getattr(model, "text", model)
    projection = getattr(text, "text_projection", None)
    if projection is None:
        return int(text.output_dim)
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])
