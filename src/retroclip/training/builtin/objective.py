"""What the builtin is trained to do: tell captions, labels and a teacher's classes apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import Tensor, nn

from retroclip.training.builtin.recipe import BuiltinRecipe
from retroclip.training.losses import classification_loss, clip_loss


class Objective(nn.Module):
    """The trained parts of the model and the four terms. `batch` is a dict as `Batches` makes it."""

    project: nn.Module
    evidence: nn.Module
    blocks: nn.Module
    norm: nn.Module
    head: nn.Module
    text: nn.Module
    frozen: tuple[Any, Any]

    def __init__(self, model: Any, recipe: BuiltinRecipe):
        super().__init__()
        self.distil_weight, self.map_drop = recipe.distil_weight, recipe.map_drop
        self.bank: Tensor = torch.empty(0)  # texts (1000, d) of ImageNet's classes, unit norm, constants for a while
        self.drop = PatchDropout(recipe.patch_drop, num_prefix_tokens=0)
        trunk = model.visual.trunk
        self.frozen = (trunk.patch_embed, model)  # in a tuple: neither trained nor checkpointed
        self.project, self.evidence = trunk.patch_embed.proj, trunk.patch_embed.evidence
        self.position = trunk.pos_embed
        self.blocks, self.norm, self.head = trunk.blocks, trunk.fc_norm, model.visual.head
        self.text = model.text
        self.logit_scale = model.logit_scale
        self.class_scale = nn.Parameter(torch.tensor(np.log(20.0), dtype=torch.float32))
        bert = model.text.transformer
        for module in (bert.embeddings, *bert.encoder.layer[: recipe.frozen_text_layers]):
            module.requires_grad_(False)

    def encode_maps(self, maps: Tensor) -> Tensor:
        """Maps (B, 352, 5, 5) of the stem → unit-norm image embeddings (B, d)."""
        embed = self.frozen[0]
        with torch.no_grad():
            maps = embed.backbone.net.bn2(embed.backbone.net.conv_head(maps))
        tokens = self.drop(embed.embed_maps(maps, self.map_drop if self.training else 0.0) + self.position)
        return F.normalize(self.head(self.norm(self.blocks(tokens).mean(1))), dim=-1)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        images = self.encode_maps(batch["maps"])
        scale, class_scale = self.logit_scale.exp(), self.class_scale.exp()
        values: dict[str, Tensor] = {}
        captions = F.normalize(self.text(batch["captions"]), dim=-1)
        values["caption"] = clip_loss(images[batch["captioned"]], captions, scale)
        if "labels" in batch:
            names = F.normalize(self.text(batch["names"]), dim=-1)
            values["label"] = classification_loss(images[batch["labelled"]], names, batch["labels"], class_scale)
        nodes = F.normalize(self.text(batch["nodes"]), dim=-1)
        logits = class_scale * images[batch["distilled"]] @ nodes.T
        values["distil"] = soft_cross_entropy(logits, batch["node_probabilities"])
        # All 1000 classes at once; their texts are constants between two refreshes, for speed.
        values["bank"] = soft_cross_entropy(class_scale * images[batch["distilled"]] @ self.bank.T, batch["leaves"])
        loss = values["caption"] + values["bank"] + self.distil_weight * values["distil"]
        loss = loss + values.get("label", 0.0)
        return {"loss": loss, "logit_scale": scale, **values}

    @torch.no_grad()
    def clamp(self) -> None:
        self.logit_scale.clamp_(0, np.log(100))
        self.class_scale.clamp_(0, np.log(100))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target ‖ softmax(logits)), mean over rows (B, K): the cross-entropy less the teacher's own entropy."""
    return (torch.xlogy(target, target) - target * logits.log_softmax(-1)).sum(-1).mean()
