"""Fine-tuning a video transformer with the text tower as its classifier (iCAR's use of Video-Swin).

torchvision's SwinTransformer3d or MViT gives a clip an embedding in the space of the texts; class texts classify it, so
it can be asked for classes that it was not trained on. Weights start random or come from a file: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from retroclip.classifiers.zero_shot import class_texts
from retroclip.encoders.fingerprint import hash_weights
from retroclip.encoders.weights import fit, read_weights
from retroclip.errors import ModelError, RetroclipError
from retroclip.training.epochs import epochs_left

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

SCALE = 20.0  # of cosines: 1/τ of iCAR
SLOWER = 0.1  # learning rate of weights from a file, of that of the new head (Video-Swin, section 4.1)
KEPT = 2**30  # bytes of pixels held during training
TOGETHER = 2  # clips of 224 pixels that go through a tower at once: 0.7 GB of activations each in swin3d_t
SIZES: dict[str, dict[str, Any]] = {
    "small": {"embed_dim": 32, "depths": [1, 1, 2], "num_heads": [2, 4, 8]},
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},  # swin3d_t at 64 pixels
}
PUBLISHED = ("swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s")
"""torchvision's architectures with published weights, of 224 pixels; an MViT takes 16 frames, no more and no fewer."""
HEAD = "head."


class VideoTower(nn.Module):
    """Clips (B, 3, T, H, W) of 8-bit pixels → embeddings (B, d), unit norm, of a video transformer.

    `architecture`: a name in `SIZES`, for clips squashed to a square of `size` pixels, or one of `PUBLISHED`, with its
    own preprocessing. `weights`: a state dict as torchvision publishes it, whose head is left out. Raises
    RetroclipError where an MViT would get other than 16 frames, ModelError for weights that don't fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: Encoder, *, frames: int = 8, architecture: str = "small", weights: str | Path | None = None,
        size: int = 64, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        torch.manual_seed(seed)
        self.frames, self.size, self.pretrained = frames, size, weights is not None
        self.preset = None
        if architecture in PUBLISHED:
            published = get_model_weights(architecture).DEFAULT  # type: ignore[attr-defined]
            needed = published.meta["min_temporal_size"]
            if architecture.startswith("mvit") and frames != needed:
                raise RetroclipError(
                    f"{architecture} takes {needed} frames a clip, not {frames}: --set.frames {needed}"
                )
            self.preset = published.transforms()
            self.body = get_model(architecture, weights=None, num_classes=encoder.dim)
        else:
            self.body = SwinTransformer3d(
                patch_size=[2, 4, 4], window_size=[8, 7, 7], num_classes=encoder.dim, **SIZES[architecture]
            )
        if weights is not None:
            fill(self.body, Path(weights), architecture)
        scaling = encoder.preprocess_cfg if self.preset is None else vars(self.preset)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(scaling[name]).view(3, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        return F.normalize(self.body((clips.float() / 255 - self.mean) / self.std), dim=-1)

    def frame(self, image: Image.Image) -> Tensor:
        """One frame (3, H, W), 8 bits: squashed to a square, or as the published preprocessing resizes and crops it."""
        if self.preset is None:
            return pil_to_tensor(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        preset = self.preset
        resized = resize(pil_to_tensor(image), preset.resize_size, interpolation=preset.interpolation, antialias=False)
        return center_crop(resized, preset.crop_size)

    def pixels(self, frames: Sequence[Any]) -> Tensor:
        """One clip (3, T, H, W), 8 bits, of encoded or PIL frames; the last frame fills it up to `self.frames`."""
        from retroclip.pairs import decode_image

        images = [self.frame(decode_image(frame)) for frame in frames]
        return torch.stack(images + images[-1:] * (self.frames - len(images)), dim=1)

    @torch.no_grad()
    def embed(self, clips: Sequence[Sequence[Any]]) -> Tensor:
        """Embeddings (n, d) of clips, one after the other."""
        self.eval()
        return torch.cat([self(self.pixels(frames)[None]) for frames in clips])

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits of the weights but for the head's, which start anew with each seed."""
        digest = hashlib.blake2b(digest_size=16)
        hash_weights(digest, nn.ModuleDict({name: part for name, part in self.body.named_children() if name != "head"}))
        return digest.hexdigest()


def fill(body: nn.Module, weights: Path, architecture: str) -> None:
    """Load a state dict but for its head; ModelError where tensors don't fit or aren't finite."""
    given = {name: value for name, value in read_weights(weights).items() if not name.startswith(HEAD)}
    own = {name: value for name, value in body.state_dict().items() if name.startswith(HEAD)}
    fit(body, given | own, f"{weights} as weights of {architecture}")
    wrong = [name for name, value in body.state_dict().items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise ModelError(f"{weights} holds NaN or infinite weights, such as {wrong[0]}")


def train_video(
    tower: VideoTower,
    encoder: Encoder,
    task: Task,
    clips: Sequence[Sequence[Any]],
    labels: Sequence[int],
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    batch: int = 8,
    seed: int = 0,
    state: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> VideoTower:
    """Train on clips with class indices of the task; the loss compares the task's trained classes.

    Classes without a clip take no part in the softmax: nothing is learnt against them, and the tower can be asked for
    them afterwards. Weights from a file learn at `SLOWER` times the head's rate. Pixels of the first clips are kept, as
    many as fit in `KEPT` bytes; the others are read again in each epoch. A batch is one step; in large architectures
    its gradients are summed over `TOGETHER` clips at a time. `state`: `epochs.epochs_left`. `on_epoch(epoch, loss)` is
    told of progress.
    """
    torch.manual_seed(seed)
    present = sorted(set(labels))
    texts = class_texts(encoder, task).float()[present]
    target = torch.tensor([present.index(label) for label in labels])
    optimizer = torch.optim.AdamW(rates(tower, lr), weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    read = reader(tower, clips)
    for epoch in epochs_left(epochs, state, generator, tower=tower, optimizer=optimizer):
        tower.train()
        losses = []
        for rows in torch.randperm(len(target), generator=generator).split(batch):
            optimizer.zero_grad()
            total = 0.0
            for part in rows.split(batch if tower.preset is None else TOGETHER):
                pixels = torch.stack([read(row) for row in part.tolist()])
                logits = SCALE * tower(pixels) @ texts.T
                loss = F.cross_entropy(logits, target[part], reduction="sum") / len(rows)
                loss.backward()
                total += float(loss.detach())
            nn.utils.clip_grad_norm_(tower.parameters(), 5.0)
            optimizer.step()
            losses.append(total)
        if on_epoch is not None:
            on_epoch(epoch, float(np.mean(losses)))
    return tower.eval()


def rates(tower: VideoTower, lr: float) -> list[dict[str, Any]]:
    """The optimizer's groups: the new head and the rest, which learns more slowly where it came from a file."""
    named = list(tower.body.named_parameters())
    head = [each for name, each in named if name.startswith(HEAD)]
    rest = [each for name, each in named if not name.startswith(HEAD)]
    return [{"params": head, "lr": lr}, {"params": rest, "lr": lr * SLOWER if tower.pretrained else lr}]


def reader(tower: VideoTower, clips: Sequence[Sequence[Any]], room: int = KEPT) -> Callable[[int], Tensor]:
    """What gives a clip's pixels by its position: kept from the first time on while there is room, else made anew."""
    kept: dict[int, Tensor] = {}

    def read(row: int) -> Tensor:
        nonlocal room
        if row in kept:
            return kept[row]
        pixels = tower.pixels(clips[row])
        if pixels.nbytes <= room:
            kept[row] = pixels
            room -= pixels.nbytes
        return pixels

    return read
