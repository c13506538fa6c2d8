"""Fine-tuning a video transformer with the text tower as its classifier (iCAR's use of Video-Swin).

torchvision's SwinTransformer3d gives a clip an embedding in the space of the texts; class texts classify it, so it can
be asked for classes that it was not trained on. Weights start random: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from retroclip.classifiers.zero_shot import class_texts

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

SCALE = 20.0  # of cosines: 1/τ of iCAR
SIZES: dict[str, dict[str, Any]] = {
    "small": {"embed_dim": 32, "depths": [1, 1, 2], "num_heads": [2, 4, 8]},
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},  # torchvision's swin3d_t
}


class VideoTower(nn.Module):
    """Clips (B, 3, T, H, W) → embeddings (B, d), unit norm, of a Video-Swin. `architecture`: a name in `SIZES`."""

    def __init__(self, encoder: Encoder, *, architecture: str = "small", size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.mean, self.std = (encoder.preprocess_cfg[name] for name in ("mean", "std"))
        self.swin = SwinTransformer3d(
            patch_size=[2, 4, 4], window_size=[8, 7, 7], num_classes=encoder.dim, **SIZES[architecture]
        )

    def forward(self, clips: Tensor) -> Tensor:
        return F.normalize(self.swin(clips), dim=-1)

    def pixels(self, frames: Sequence[Any], count: int) -> Tensor:
        """One clip (3, T, H, W) of encoded or PIL frames, squashed to a square; the last frame fills up to `count`."""
        from retroclip.pairs import decode_image

        square = (self.size, self.size)
        images = [decode_image(frame).resize(square, Image.Resampling.BILINEAR) for frame in frames]
        images += [images[-1]] * (count - len(images))
        values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255
        return ((values - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(3, 0, 1, 2)

    @torch.no_grad()
    def embed(self, clips: Sequence[Sequence[Any]], count: int) -> Tensor:
        """Embeddings (n, d) of clips."""
        self.eval()
        return torch.cat([self(self.pixels(frames, count)[None]) for frames in clips])


def train_video(
    encoder: Encoder,
    task: Task,
    clips: Sequence[Sequence[Any]],
    labels: Sequence[int],
    *,
    frames: int = 8,
    architecture: str = "small",
    size: int = 64,
    epochs: int = 20,
    lr: float = 1e-3,
    batch: int = 8,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> VideoTower:
    """Train on clips of `frames` frames with class indices of the task; the loss compares the task's trained classes.

    Classes without a clip take no part in the softmax: nothing is learnt against them, and the tower can be asked for
    them afterwards. `on_epoch(epoch, loss)` is told of progress.
    """
    torch.manual_seed(seed)
    present = sorted(set(labels))
    texts = class_texts(encoder, task).float()[present]
    target = torch.tensor([present.index(label) for label in labels])
    tower = VideoTower(encoder, architecture=architecture, size=size)
    pixels = torch.stack([tower.pixels(own, frames) for own in clips])
    optimizer = torch.optim.AdamW(tower.parameters(), lr=lr, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        tower.train()
        losses = []
        for rows in torch.randperm(len(target), generator=generator).split(batch):
            loss = F.cross_entropy(SCALE * tower(pixels[rows]) @ texts.T, target[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 5.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        if on_epoch is not None:
            on_epoch(epoch, float(np.mean(losses)))
    return tower.eval()
