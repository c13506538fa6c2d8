"""An open-vocabulary Faster R-CNN: the text tower classifies its regions, background is a trained embedding (iCAR).

torchvision's region proposal network and box heads on the frozen maps of an image tower: its pyramid where it has one,
else one made of a ViT's patch embeddings. Region embeddings are compared with class texts, so classes that were never
boxed can be asked for. Boxes are regressed for no class in particular.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from retroclip.classifiers.zero_shot import class_texts
from retroclip.encoders.dense import LastDense, whole_image
from retroclip.encoders.pyramid import LEVELS, STRIDES, tower_maps
from retroclip.errors import ModelError, SourceError
from retroclip.training.epochs import Stateful, epochs_left

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

SCALE = 20.0  # of cosines: 1/τ of iCAR
WIDTH, HIDDEN = 96, 384


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid (Li et al. 2022): one map, at a stride, → maps of `WIDTH` channels at `STRIDES`.

    {level: (B, channels, h, w)} → {"8": …, "16": …, "32": …}: deconvolved for finer ones, pooled for coarser ones.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), LayerNorm2d(WIDTH))
        self.levels = nn.ModuleDict({str(wanted): _resampling(stride, wanted) for wanted in STRIDES})

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        (one,) = maps.values()
        x = self.embed(one)
        return {name: level(x) for name, level in self.levels.items()}


class TextPredictor(nn.Module):
    """Region features (n, c) → logits (n, 1 + K) over background and classes, box deltas (n, 4·(1 + K)), all alike.

    Logits are cosines times `SCALE`: with the class texts, and with one trained embedding for background.
    """

    texts: Tensor

    def __init__(self, channels: int, texts: Tensor) -> None:
        super().__init__()
        self.embed, self.deltas = nn.Linear(channels, texts.shape[1]), nn.Linear(channels, 4)
        self.background = nn.Parameter(torch.randn(texts.shape[1]) / texts.shape[1] ** 0.5)
        self.register_buffer("texts", texts)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.cat([F.normalize(self.background, dim=0)[None], self.texts])
        logits = SCALE * F.normalize(self.embed(features), dim=1) @ weights.T
        return logits, self.deltas(features).repeat(1, len(weights))


class OpenVocabularyDetector(nn.Module):
    """Neck, RPN and RoI heads over cached maps of the tower (`tower_maps`); `classify` sets the class texts (K, d)."""

    def __init__(self, encoder: Encoder, texts: Tensor, *, size: int = 224) -> None:
        super().__init__()
        self._encoder, self._tower, self.size = [encoder], [tower_maps(encoder)], size
        channels = self._tower[0].channels
        self.neck: nn.Module
        if len(channels) == 1:
            ((level, width),) = channels.items()
            self.neck = SimplePyramid(width, int(level))
        else:
            self.neck = FeaturePyramidNetwork([channels[level] for level in LEVELS], WIDTH)
        sides = tuple((3 * stride, 5 * stride) for stride in STRIDES)
        anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides))
        self.rpn = RegionProposalNetwork(
            anchors, RPNHead(WIDTH, anchors.num_anchors_per_location()[0]), 0.6, 0.3, 64, 0.5,
            {"training": 400, "testing": 300}, {"training": 150, "testing": 100}, 0.7,
        )  # fmt: skip
        pool = MultiScaleRoIAlign(LEVELS, 5, 2)
        self.heads = RoIHeads(
            pool, TwoMLPHead(WIDTH * 25, HIDDEN), TextPredictor(HIDDEN, texts.float()), 0.5, 0.5, 64, 0.25, None,
            0.0, 1.0, 1,
        )  # fmt: skip

    def classify(self, texts: Tensor) -> None:
        """Ask for other classes from now on."""
        self.heads.box_predictor.texts = texts.float()

    @property
    def dense(self) -> LastDense | None:
        """What makes the tower's dense maps, where the detector is built on these."""
        return getattr(self._tower[0], "dense", None)

    def inputs(self, image: Any) -> tuple[dict[str, Tensor], tuple[int, int], Tensor]:
        """The frozen maps of a PIL image, its size (H, W) as the network takes it, what x, y, w, h are scaled by (4,).

        Width and height are rounded each by itself, and so scaled by a little more or less.
        """
        tower = self._tower[0]
        maps = tower(whole_image(self._encoder[0], image, self.size, tower.step)[None])
        level, first = next(iter(maps.items()))
        height, width = (int(level) * positions for positions in first.shape[2:])
        return maps, (height, width), torch.tensor([width / image.width, height / image.height]).repeat(2)

    def losses(self, maps: dict[str, Tensor], size: tuple[int, int], targets: list[dict[str, Tensor]]) -> Tensor:
        """RPN and RoI losses, summed; targets hold `boxes` (n, 4), corners in its pixels, and `labels` (n,) from 1."""
        features, images = self.neck(maps), _images(maps, size)
        proposals, rpn = self.rpn(images, features, targets)
        _, heads = self.heads(features, proposals, [size] * len(targets), targets)
        return torch.stack([*rpn.values(), *heads.values()]).sum()

    @torch.no_grad()
    def detect(self, image: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Refined boxes (n, 4) of x, y, w, h in the image's pixels, class probabilities (n, K), objectness (n,).

        Background's probability is what is missing to 1; objectness is the RPN's.
        """
        from retroclip.pairs import decode_image

        self.eval()
        decoded = decode_image(image)
        maps, size, scale = self.inputs(decoded)
        features, images = self.neck(maps), _images(maps, size)
        proposals, scores = scored_proposals(self.rpn, images, features)
        pooled = self.heads.box_head(self.heads.box_roi_pool(features, [proposals], [size]))
        logits, deltas = self.heads.box_predictor(pooled)
        refined = self.heads.box_coder.decode(deltas[:, :4], [proposals])[:, 0]
        corners = refined / scale
        corners[:, 0::2] = corners[:, 0::2].clamp(0, decoded.width)
        corners[:, 1::2] = corners[:, 1::2].clamp(0, decoded.height)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        kept = (boxes[:, 2:] > 1).all(dim=1)
        probabilities = logits.softmax(dim=1)[:, 1:]
        return tuple(part[kept].double().numpy() for part in (boxes, probabilities, scores))  # type: ignore[return-value]


def scored_proposals(
    rpn: RegionProposalNetwork, images: ImageList, features: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """An RPN's boxes (n, 4) of one image, corners in the network's pixels, with their objectness (n,), best first.

    torchvision's forward drops the scores. ModelError where they or the boxes aren't finite: it would drop these too.
    """
    maps = list(features.values())
    objectness, deltas = rpn.head(maps)
    anchors = rpn.anchor_generator(images, maps)
    counts = [o[0].numel() for o in objectness]
    flat = torch.cat([o.permute(0, 2, 3, 1).reshape(1, -1) for o in objectness], dim=1)
    moved = [d.view(1, -1, 4, *d.shape[-2:]).permute(0, 3, 4, 1, 2).reshape(-1, 4) for d in deltas]
    proposals = rpn.box_coder.decode(torch.cat(moved), anchors).view(1, -1, 4)
    if not bool(torch.isfinite(flat).all() and torch.isfinite(proposals).all()):
        raise ModelError("the proposal network gave NaN or infinite boxes or scores: check its weights")
    boxes, scores = rpn.filter_proposals(proposals, flat.flatten(), images.image_sizes, counts)
    return boxes[0], scores[0]


def train_detector(
    encoder: Encoder,
    task: Task,
    images: Sequence[Any],
    boxes: Sequence[NDArray[np.floating]],
    labels: Sequence[NDArray[np.integer]],
    *,
    size: int = 224,
    epochs: int = 12,
    lr: float = 5e-4,
    batch: int = 4,
    seed: int = 0,
    state: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> OpenVocabularyDetector:
    """Train on the boxes (x, y, w, h) of the task's base classes; those of `novel` ones are dropped beforehand.

    `labels` are class indices of the task. Images without a base box are left out: nothing is known of what they show.
    The detector that comes back classifies all of the task's classes. `state`: `epochs.epochs_left`. SourceError where
    no image has a base box.
    """
    from retroclip.pairs import decode_image

    torch.manual_seed(seed)
    texts = class_texts(encoder, task)
    base = [i for i, name in enumerate(task.classes) if name not in task.novel]
    places = {c: position + 1 for position, c in enumerate(base)}
    detector = OpenVocabularyDetector(encoder, texts[base], size=size)
    examples = []
    for image, own, classes in zip(images, boxes, labels, strict=True):
        known = np.isin(classes, base)
        if known.any():
            maps, shape, scale = detector.inputs(decode_image(image))
            xywh = torch.from_numpy(np.asarray(own)[known]).float() * scale
            target = torch.tensor([places[int(c)] for c in np.asarray(classes)[known]])
            examples.append((maps, shape, torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1), target))
    if not examples:
        raise SourceError(f"no image to train on has a box of a class that task {task.name!r} may learn")
    optimizer = torch.optim.AdamW(detector.parameters(), lr=lr, weight_decay=0.01)
    steps = epochs * -(-len(examples) // batch) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Stateful] = {"detector": detector, "optimizer": optimizer, "schedule": schedule}
    for epoch in epochs_left(epochs, state, generator, **parts):
        detector.train()
        losses = []
        for position, i in enumerate(torch.randperm(len(examples), generator=generator).tolist()):
            maps, shape, corners, target = examples[i]
            if torch.rand((), generator=generator) < 0.5:
                maps = {name: each.flip(-1) for name, each in maps.items()}
                left, top, right, bottom = corners.unbind(1)
                corners = torch.stack([shape[1] - right, top, shape[1] - left, bottom], dim=1)
            loss = detector.losses(maps, shape, [{"boxes": corners, "labels": target}])
            (loss / batch).backward()
            losses.append(float(loss.detach()))
            if (position + 1) % batch == 0 or position + 1 == len(examples):
                torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        if on_epoch is not None:
            on_epoch(epoch, float(np.mean(losses)))
    detector.classify(texts)
    return detector.eval()


def _resampling(have: int, wanted: int) -> nn.Sequential:
    """`WIDTH` channels at one stride → at another, then a convolution; channels are normalised at each position."""
    layers: list[nn.Module] = []
    while have > wanted:
        layers += [nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), LayerNorm2d(WIDTH), nn.GELU()]
        have //= 2
    while have < wanted:
        layers.append(nn.MaxPool2d(2))
        have *= 2
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), LayerNorm2d(WIDTH))


def _images(maps: dict[str, Tensor], size: tuple[int, int]) -> ImageList:
    """torchvision's list of images: only sizes are read of it, the maps being computed already."""
    count = len(next(iter(maps.values())))
    return ImageList(torch.zeros(count, 3, *size), [size] * count)
