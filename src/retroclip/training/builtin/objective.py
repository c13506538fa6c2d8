"""What the builtin is trained to do: tell captions, labels and a teacher's classes apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import Tensor, nn

from retroclip.encoders.precision import has_fast_bf16
from retroclip.training.builtin.recipe import BuiltinRecipe
from retroclip.training.distributed import gathered, own_rows, shared_out
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
        self.map_drop = recipe.map_drop
        self.weights = {"caption": recipe.caption_weight, "relation": recipe.relation_weight}
        self.bf16 = has_fast_bf16(torch.device("cpu"))
        self.bank: Tensor = torch.empty(
            0
        )  # texts (1000, d) of ImageNet's classes before projection, constants for a while
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
        """Maps (B, 1280, 5, 5) of the net's last layer → unit-norm image embeddings (B, d)."""
        embed = self.frozen[0]
        tokens = self.drop(embed.embed_maps(maps, self.map_drop if self.training else 0.0) + self.position)
        return F.normalize(self.head(self.norm(self.blocks(tokens).mean(1))).float(), dim=-1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) → unit-norm text embeddings (B, d)."""
        return F.normalize(self.text.get_submodule("proj")(self.pooled_texts(tokens)).float(), dim=-1)

    def pooled_texts(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) → what the text tower makes of them before its projection (B, d)."""
        text: Any = self.text
        mask = (tokens != text.config.pad_token_id).long()
        return text.pooler(text.transformer(input_ids=tokens, attention_mask=mask), mask)

    def _texts(self, tokens: Tensor) -> Tensor:
        """The embeddings of all texts, of which this process encodes its share."""
        return shared_out(self.encode_texts, tokens)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.frozen[0].backbone.net
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                maps = net.bn2(net.conv_head(batch["maps"][own_rows(len(batch["maps"]))])).float()
            images, captions = self.encode_maps(maps), self._texts(batch["captions"])
            names = self._texts(batch["names"]) if "labels" in batch else None
        images, pooled = (gathered(rows, len(batch["maps"])) for rows in (images, maps.mean((2, 3))))
        scale, class_scale = self.logit_scale.exp(), self.class_scale.exp()
        values = {"caption": clip_loss(images[batch["captioned"]], captions, scale)}
        if names is not None:
            values["label"] = classification_loss(images[batch["labelled"]], names, batch["labels"], class_scale)
        bank = F.normalize(self.text.get_submodule("proj")(self.bank), dim=-1)
        values["bank"] = soft_cross_entropy(class_scale * images[batch["distilled"]] @ bank.T, batch["leaves"])
        values["relation"] = relation_loss(images, pooled)
        loss = torch.stack([self.weights.get(name, 1.0) * value for name, value in values.items()]).sum()
        return {"loss": loss, "logit_scale": scale, **values}

    @torch.no_grad()
    def clamp(self) -> None:
        self.logit_scale.clamp_(0, np.log(100))
        self.class_scale.clamp_(0, np.log(100))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target ‖ softmax(logits)), mean over rows (B, K): the cross-entropy less the teacher's own entropy."""
    return (torch.xlogy(target, target) - target * logits.log_softmax(-1)).sum(-1).mean()


def relation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """How far a batch's images lie from each other as they do for the teacher: student (B, d), teacher (B, t).

    KL between the softmaxes of each image's cosines to the others; the teacher's features are centred first. The idea
    of relational knowledge distillation (Park et al. 2019), in the form of Passalis & Tefas 2018.
    """
    teacher = F.normalize(teacher - teacher.mean(0), dim=-1)
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    target = (teacher @ teacher.T / temperature).masked_fill(itself, -1e4).softmax(-1)
    return soft_cross_entropy((student @ student.T / temperature).masked_fill(itself, -1e4), target)
