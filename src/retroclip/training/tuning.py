"""Which part of a CLIP a tuning mode trains, and how the rest is kept out of every step (REACT, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import Tensor, nn

from retroclip.encoders import add_gates, gate_parameters, image_blocks, image_suffix, text_blocks
from retroclip.encoders.blocks import image_prefix
from retroclip.encoders.texts import encode_tokens, text_lengths
from retroclip.errors import ModelError
from retroclip.training.chunks import in_chunks
from retroclip.training.distributed import shared_out

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

MAX_LOGIT_SCALE = 4.6052  # ln 100


@dataclass(frozen=True)
class Tuning:
    """What happens to each tower ("locked", "gated" or "trained"), and the learning rate for it.

    REACT's rates, 5e-4 for gates and 5e-5 otherwise, are for 10 M pairs in batches of 4096 (`published`). On a few
    thousand they hardly move the model in any bearable time; ours were chosen on slices of `train` (docs/decisions.md).
    """

    image: str
    text: str
    lr: float

    @property
    def gated(self) -> bool:
        """Whether gates are trained, in whichever tower."""
        return "gated" in (self.image, self.text)

    @property
    def published(self) -> float:
        """REACT's own rate."""
        return 5e-4 if self.gated else 5e-5


TUNINGS = {
    "gated-image": Tuning("gated", "locked", 5e-3),
    "locked-text": Tuning("trained", "locked", 1e-3),
    "locked-image": Tuning("locked", "trained", 1e-3),
    "full": Tuning("trained", "trained", 1e-4),
    "gated-text": Tuning("locked", "gated", 5e-3),
    "gated-both": Tuning("gated", "gated", 5e-3),
}


class Towers:
    """A copy of an encoder's model, fp32, in which only what a tuning trains has gradients.

    `stage` and `start` say how far images are computed beforehand (`views.cache_views`); `texts_locked` whether
    captions are. `image` and `text` compute the rest, of several processes each for its share of the rows, which all of
    them have to call with the same ones (`distributed`). `token_drop` hides that share of each image's cached tokens,
    drawn anew at every call, from the blocks that follow. `micro_batch`: so many rows are computed at a time, see
    `in_chunks`. Raises ModelError where a tower can't be gated.
    """

    def __init__(
        self,
        encoder: Encoder,
        tuning: Tuning,
        *,
        gates: int | None = None,
        token_drop: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        self.encoder, self.tuning, self.micro_batch = encoder, tuning, micro_batch
        self.model: Any = encoder.copy(precision="fp32").model
        self.model.requires_grad_(False)
        self.texts_locked = tuning.text == "locked"
        self.stage, self.start = self._open_image(gates)
        kept = prefix_tokens(self.model.visual) if self.stage == "tokens" else 0
        self.drop = PatchDropout(token_drop, num_prefix_tokens=kept)
        self._open_text(gates)
        self.model.logit_scale.requires_grad_(True)
        self.low_precision = encoder.trains_in_bf16

    def _open_image(self, gates: int | None) -> tuple[str, int]:
        if self.tuning.image == "locked":
            return "embedding", 0
        if self.tuning.image == "gated":
            before = {id(parameter) for parameter in gate_parameters(self.model)}
            blocks = image_blocks(self.model)
            gates = gated_blocks_of(len(blocks), gates)
            add_gates(self.model, last=gates, tower="image")
            _train(p for p in gate_parameters(self.model) if id(p) not in before)
            start = len(blocks) - gates
            return ("tokens", start) if can_be_cut(self.model, start) else ("pixels", 0)
        visual = self.model.visual
        _train(visual.parameters())
        if is_hybrid(visual):
            # The convolutional part stays as it is (batch norms folded, no statistics to follow) and is computed once.
            _freeze(visual.trunk.patch_embed.parameters())
            _freeze([visual.trunk.pos_embed])
            return "tokens", 0
        return "pixels", 0

    def _open_text(self, gates: int | None) -> None:
        if self.tuning.text == "gated":
            add_gates(self.model, last=gated_blocks_of(len(text_blocks(self.model)), gates), tower="text")
            inside_image = {id(p) for p in self.model.visual.parameters()}
            _train(p for p in gate_parameters(self.model) if id(p) not in inside_image)
        elif self.tuning.text == "trained":
            named = self.model.named_parameters()
            _train(p for name, p in named if not name.startswith(("visual.", "logit_")))

    def trained(self) -> list[nn.Parameter]:
        """The parameters that have gradients, logit scale included."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def image(self, cached: Tensor) -> Tensor:
        """Unit-norm image embeddings (B, d) from what `cache_views` stored for them."""
        values = cached.to(self.encoder.device, torch.float32)
        if self.stage == "embedding":
            return F.normalize(values, dim=-1)
        if self.stage == "tokens":
            values = self.drop(values)  # of the whole batch: neither processes nor chunks change what is drawn
        return shared_out(lambda rows: in_chunks(self._image_rows, rows, self.micro_batch), values)

    def _image_rows(self, values: Tensor) -> Tensor:
        with torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self.low_precision):
            if self.stage == "tokens":
                features = image_suffix(self.model, values, self.start)
            else:
                features = self.model.encode_image(values)
        return F.normalize(features.float(), dim=-1)

    def text(self, given: Tensor) -> Tensor:
        """Unit-norm text embeddings (B, d), from cached ones if the tower is locked, else from tokens (B, context)."""
        if self.texts_locked:
            return given.to(self.encoder.device)
        longest = int(text_lengths(self.model, given).max())
        tokens = given[:, :longest].to(self.encoder.device)
        return shared_out(lambda rows: in_chunks(self._text_rows, rows, self.micro_batch), tokens)

    def _text_rows(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self.low_precision):
            features = encode_tokens(self.model, tokens)
        return F.normalize(features.float(), dim=-1)

    def scale(self) -> Tensor:
        """exp(logit_scale), trainable."""
        return self.model.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep logit_scale in [0, ln 100]."""
        self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def gated_blocks_of(depth: int, gates: int | None) -> int:
    """How many blocks of a tower are gated: as asked, at most all; by default half of them, at most REACT's 6."""
    return min(6, max(1, depth // 2)) if gates is None else min(gates, depth)


def is_hybrid(visual: Any) -> bool:
    """Whether an image tower is a timm ViT over a convolutional net's feature map."""
    return hasattr(getattr(getattr(visual, "trunk", None), "patch_embed", None), "backbone")


def prefix_tokens(visual: Any) -> int:
    """How many tokens before those of the patches an image tower has: class and register tokens."""
    return visual.trunk.num_prefix_tokens if hasattr(visual, "trunk") else 1


def can_be_cut(model: nn.Module, start: int) -> bool:
    """Whether the frozen blocks below `start` can be run apart from the rest (`image_prefix`)."""
    size = getattr(model.visual, "image_size", 224)
    height, width = size if isinstance(size, tuple | list) else (size, size)
    try:
        with torch.no_grad():
            image_prefix(model, torch.zeros(1, 3, height, width), start)
    except ModelError:
        return False
    return True


def _train(parameters: Any) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)


def _freeze(parameters: Any) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)
