"""MaskFormer with the text tower as its classifier, in iCAR's manner: ∅ is the text "background".

The parts are those of `transformers` (Cheng et al. 2021), built from a local configuration, on the encoder's frozen
maps. A query gives a mask and an embedding; class texts classify the embedding, so that any class can be asked for.
iCAR's test is on classes of another set. Here the novel classes are in the same images: what is of one is either ∅
("base"), or MaskCLIP's best guess among the novel classes ("pseudo", as for the MaskCLIP+ student). Void is in no mask,
as in MaskFormer's own training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerHungarianMatcher,
    MaskFormerLoss,
    MaskformerMLPPredictionHead,
    MaskFormerPixelDecoder,
    MaskFormerTransformerModule,
)

from retroclip.classifiers.zero_shot import class_texts
from retroclip.encoders.dense import dense_map, whole_image
from retroclip.encoders.pyramid import LEVELS, staged_maps
from retroclip.training.segmenter import SCALE, OnEpoch, fit, segmentation_examples

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

Targets = Literal["base", "pseudo"]
WIDTH, QUERIES, LAYERS = 96, 24, 3
NOTHING = "background"  # iCAR's text for ∅
WEIGHTS = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}  # MaskFormer's own
NO_OBJECT_WEIGHT = 0.1
CLIP = 1.0  # of the gradient's norm


class MaskFormerStudent(nn.Module):
    """Class scores (K, H, W) of an image: Σ over queries of class probability times mask.

    On the encoder's frozen maps at three strides where it has some, else on its dense patch embeddings.
    """

    texts: Tensor

    def __init__(self, encoder: Encoder, task: Task, *, size: int, trained: Sequence[int] | None = None) -> None:
        super().__init__()
        self._encoder, self.size = [encoder], size  # in a list: the encoder's weights aren't the student's
        texts = class_texts(encoder, task).float()
        nothing = F.normalize(encoder.encode_texts([NOTHING]).float(), dim=-1)
        self.register_buffer("texts", torch.cat([texts, nothing]))
        self.trained = list(range(len(texts))) if trained is None else list(trained)
        pyramid = staged_maps(encoder)
        self._pyramid = [pyramid] if pyramid is not None else []
        channels = [encoder.dim] * 2 if pyramid is None else [pyramid.channels[level] for level in LEVELS]
        config = configuration()
        self.pixels = MaskFormerPixelDecoder(
            in_features=channels[-1], feature_size=WIDTH, mask_feature_size=WIDTH, lateral_widths=channels[:-1]
        )
        self.queries = MaskFormerTransformerModule(in_features=channels[-1], config=config)
        self.masks = MaskformerMLPPredictionHead(WIDTH, WIDTH, WIDTH)
        self.embed = nn.Linear(WIDTH, encoder.dim)
        matcher = MaskFormerHungarianMatcher(1.0, WEIGHTS["loss_mask"], WEIGHTS["loss_dice"])
        self.criterion = MaskFormerLoss(len(self.trained), matcher, WEIGHTS, NO_OBJECT_WEIGHT)

    def inputs(self, image: Any) -> dict[str, Tensor]:
        """What of an image doesn't change in training, with a batch dimension of 1: its maps, fine ones first."""
        pixels = whole_image(self._encoder[0], image, self.size)[None]
        if self._pyramid:
            maps = self._pyramid[0](pixels)
            return {str(i): maps[level] for i, level in enumerate(LEVELS)}
        dense = dense_map(self._encoder[0], pixels).features.permute(0, 3, 1, 2).contiguous()
        # MaskFormer's pixel decoder wants two levels at least.
        return {"0": dense, "1": F.avg_pool2d(dense, 2, ceil_mode=True)}

    def forward(self, inputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Query embeddings (B, Q, d), unit norm, and mask logits (B, Q, h, w) after each decoder layer."""
        maps = [inputs[name] for name in sorted(inputs)]
        pixels = self.pixels(maps).last_hidden_state
        states = self.queries(maps[-1], output_hidden_states=True, return_dict=True).hidden_states
        return [
            (F.normalize(self.embed(state), dim=-1), torch.einsum("bqc,bchw->bqhw", self.masks(state), pixels))
            for state in states[1:]
        ]

    def loss(self, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """MaskFormer's loss, summed over the layers, for class indices (B, H, W), 255 where there is none."""
        weights = self.texts[[*self.trained, -1]]
        layers = self(inputs)
        small = F.interpolate(targets[:, None].float(), size=layers[0][1].shape[-2:], mode="nearest")[:, 0].long()
        labels = [
            torch.tensor([i for i, c in enumerate(self.trained) if (own == c).any()], dtype=torch.long) for own in small
        ]
        masks = [
            (own == torch.tensor(self.trained)[present][:, None, None]).float()
            for own, present in zip(small, labels, strict=True)
        ]
        total = torch.zeros(())
        for embeddings, predicted in layers:
            found = self.criterion(predicted, SCALE * embeddings @ weights.T, masks, labels)
            total = total + sum(WEIGHTS[name] * value for name, value in found.items())
        return total / len(layers)

    @torch.no_grad()
    def segment(self, image: Any) -> Tensor:
        """Scores (K, H, W) of an encoded image at its own size, for all classes of the task."""
        from retroclip.pairs import decode_image

        decoded = decode_image(image)
        embeddings, masks = self.eval()(self.inputs(decoded))[-1]
        probabilities = (SCALE * embeddings[0] @ self.texts.T).softmax(-1)[:, :-1]
        scores = torch.einsum("qk,qhw->khw", probabilities, masks[0].sigmoid())
        return F.interpolate(scores[None], size=decoded.size[::-1], mode="bilinear", align_corners=False)[0]


def configuration() -> MaskFormerConfig:
    """A small MaskFormer's configuration, made here: nothing is looked up on a hub."""
    decoder = DetrConfig(
        d_model=WIDTH, decoder_layers=LAYERS, decoder_attention_heads=8, decoder_ffn_dim=4 * WIDTH,
        num_queries=QUERIES, dropout=0.0,
    )  # fmt: skip
    return MaskFormerConfig(decoder_config=decoder, fpn_feature_size=WIDTH, mask_feature_size=WIDTH)


def train_maskformer(
    encoder: Encoder,
    task: Task,
    images: Sequence[Any],
    masks: Sequence[NDArray[np.integer]],
    *,
    targets: Targets = "pseudo",
    size: int = 224,
    epochs: int = 12,
    lr: float = 1e-3,
    batch: int = 8,
    seed: int = 0,
    state: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> MaskFormerStudent:
    """Train a MaskFormer on images with masks, of which it sees the base classes only (all but `task.novel`).

    `targets`: see the module; images of several sizes: `segmenter.fit`; `state`: `epochs.epochs_left`.
    `on_epoch(epoch, loss)` is told of progress.
    """
    torch.manual_seed(seed)
    base = [i for i, name in enumerate(task.classes) if name not in task.novel]
    student = MaskFormerStudent(encoder, task, size=size, trained=base if targets == "base" else None)
    examples = segmentation_examples(
        student.inputs, encoder, task, images, masks, size=size, pseudo=targets == "pseudo"
    )
    settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch": batch, "seed": seed, "state": state}
    fit(student, student.loss, *examples, **settings, clip=CLIP, on_epoch=on_epoch)
    return student.eval()
