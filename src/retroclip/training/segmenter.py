"""MaskCLIP+: a segmentation student that learns from labels where there are any, from MaskCLIP where there are none.

The student is torchvision's LR-ASPP whose classifier gives an embedding for each pixel; class texts classify it, so any
class can be asked for. Pixels of the base classes have their labels, those of novel classes get the best of these by
the untrained model, and those of no class (void) teach nothing (MaskCLIP, Zhou et al. 2022, section 3.4, its setting of
zero-shot segmentation; void as in its public code). Where all classes are novel, no label is used (annotation-free).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.models.segmentation.lraspp import LRASPPHead

from retroclip.classifiers.segmenting import segment
from retroclip.classifiers.zero_shot import class_texts, zero_shot
from retroclip.encoders.dense import whole_image
from retroclip.encoders.pyramid import staged_maps
from retroclip.errors import SourceError, TaskError
from retroclip.training.epochs import Stateful, epochs_left

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

IGNORE = 255
SCALE = 20.0  # of cosines; 1/τ of iCAR
OnEpoch = Callable[[int, float], None]


class SegmentationStudent(nn.Module):
    """Class scores (K, H, W) of an image: cosines of pixel embeddings with class texts, times `SCALE`.

    On the encoder's own frozen maps at strides 8 and 32 where it has some, else a MobileNetV3 from random weights.
    """

    def __init__(self, encoder: Encoder, task: Task, *, size: int) -> None:
        super().__init__()
        self._encoder, self.size = [encoder], size  # in a list: the encoder's weights aren't the student's
        self.register_buffer("texts", class_texts(encoder, task).float())
        pyramid = staged_maps(encoder)
        self._pyramid = [pyramid] if pyramid is not None else []
        self.head: nn.Module
        if pyramid is None:
            self.head = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=encoder.dim)
        else:
            self.head = LRASPPHead(pyramid.channels["8"], pyramid.channels["32"], encoder.dim, 128)

    def inputs(self, image: Any) -> dict[str, Tensor]:
        """What of an image doesn't change in training, with a batch dimension of 1."""
        pixels = whole_image(self._encoder[0], image, self.size)[None]
        if not self._pyramid:
            return {"pixels": pixels}
        maps = self._pyramid[0](pixels)
        return {"low": maps["8"], "high": maps["32"]}

    def forward(self, inputs: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Scores (B, K, H, W) at a size of (H, W) pixels."""
        features = self.head(inputs) if self._pyramid else self.head(inputs["pixels"])["out"]
        scores = SCALE * torch.einsum("bdhw,kd->bkhw", F.normalize(features, dim=1), self.texts)
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def segment(self, image: Any) -> Tensor:
        """Scores (K, H, W) of an encoded image at its own size."""
        from retroclip.pairs import decode_image

        decoded = decode_image(image)
        return self.eval()(self.inputs(decoded), decoded.size[::-1])[0]


def pseudo_labels(scores: Tensor, mask: NDArray[np.integer], novel: Sequence[int]) -> Tensor:
    """Targets (H, W): the mask's class, but where it is a novel one the best of these by scores (K, H, W).

    Which novel class a pixel of `mask` has is never looked at; `IGNORE`, pixels of no class, stays.
    """
    truth = torch.from_numpy(mask.astype(np.int64))
    rows = torch.tensor(list(novel))
    guessed = rows[scores[rows].argmax(dim=0)]
    return torch.where(torch.isin(truth, rows), guessed, truth)


def train_segmenter(
    encoder: Encoder,
    task: Task,
    images: Sequence[Any],
    masks: Sequence[NDArray[np.integer]],
    *,
    size: int = 224,
    epochs: int = 12,
    lr: float = 2e-3,
    batch: int = 8,
    seed: int = 0,
    state: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> SegmentationStudent:
    """Train a student on images with masks, of which it sees the base classes only (all but `task.novel`).

    Images of several sizes: see `fit`; `state`: `epochs.epochs_left`. `on_epoch(epoch, loss)` is told of progress.
    Deterministic for a seed and machine.
    """
    torch.manual_seed(seed)
    student = SegmentationStudent(encoder, task, size=size)
    examples = segmentation_examples(student.inputs, encoder, task, images, masks, size=size)

    def loss(inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        scores = student(inputs, (target.shape[1], target.shape[2]))
        if bool((target == IGNORE).all()):
            return 0 * scores.sum()  # the mean over no pixel is NaN, and so would be every weight
        return F.cross_entropy(scores, target, ignore_index=IGNORE)

    fit(student, loss, *examples, epochs=epochs, lr=lr, batch=batch, seed=seed, state=state, on_epoch=on_epoch)
    return student.eval()


def segmentation_examples(
    inputs: Callable[[Any], dict[str, Tensor]],
    encoder: Encoder,
    task: Task,
    images: Sequence[Any],
    masks: Sequence[NDArray[np.integer]],
    *,
    size: int,
    pseudo: bool = True,
) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """What a student is trained on: the `inputs` of each image, and its targets (H, W), uint8.

    Novel classes are not told apart: their pixels get the untrained model's best novel class with `pseudo`, else
    `IGNORE`, as have pixels of no class. Targets have the size of their image where all images have one, else that of
    what the tower saw of it.
    SourceError where no pixel of any image has a target, TaskError for more classes than targets can name.
    """
    from retroclip.pairs import decode_image

    if len(task.classes) > IGNORE:
        raise TaskError(f"task {task.name!r} has {len(task.classes)} classes: a student learns at most {IGNORE}")

    mixed = len({mask.shape for mask in masks}) > 1
    novel = [i for i, name in enumerate(task.classes) if name in task.novel]
    teacher = zero_shot(encoder, task)
    cached, targets = [], []
    for image, mask in zip(images, masks, strict=True):
        decoded = decode_image(image)
        cached.append(inputs(decoded))
        target = torch.from_numpy(mask.astype(np.int64))
        if novel and pseudo:
            target = pseudo_labels(segment(teacher, decoded, size=size), mask, novel)
        if not pseudo:
            target = target.masked_fill(torch.isin(target, torch.tensor(novel)), IGNORE)
        target = target.to(torch.uint8)
        targets.append(on_grid(target, finest(cached[-1]), size) if mixed else target)
    if all(bool((target == IGNORE).all()) for target in targets):
        raise SourceError(f"no mask to train on has a pixel of a class that task {task.name!r} may learn")
    return cached, targets


def finest(maps: dict[str, Tensor]) -> Tensor:
    """Of the maps (1, c, h, w) of one image the one with the most positions."""
    return max(maps.values(), key=lambda each: each.shape[-2] * each.shape[-1])


def on_grid(target: Tensor, fine: Tensor, size: int) -> Tensor:
    """Targets (H, W) with whole pixels a position of a map (1, c, h, w), about `size` of them on the shorter side."""
    height, width = fine.shape[-2:]
    factor = max(1, round(size / min(height, width)))
    shape = (height * factor, width * factor)
    return F.interpolate(target[None, None], size=shape, mode="nearest-exact")[0, 0]


def window_sides(cached: Sequence[dict[str, Tensor]]) -> dict[str, int] | None:
    """Positions on a side of the squares that fit into each map of every image; None where all maps have one size."""
    if len({tuple((name, each.shape) for name, each in maps.items()) for maps in cached}) == 1:
        return None
    return {name: min(min(maps[name].shape[-2:]) for maps in cached) for name in cached[0]}


def window(
    maps: dict[str, Tensor], target: Tensor, sides: dict[str, int], generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """A random square of one image: `sides[name]` positions a side of each map (1, c, h, w), and the target's part.

    It starts at a position of the coarsest map, so that all of them show the same part. `target`: by `on_grid`.
    """
    side = max(sides.values())
    for axis in (-2, -1):
        length = finest(maps).shape[axis]
        factor, ratios = target.shape[axis] // length, {n: round(length / m.shape[axis]) for n, m in maps.items()}
        step = max(ratios.values())
        start = step * int(torch.randint((length - side) // step + 1, (), generator=generator))
        maps = {name: each.narrow(axis, start // ratios[name], sides[name]) for name, each in maps.items()}
        target = target.narrow(axis, start * factor, side * factor)
    return maps, target


def fit(
    student: nn.Module,
    loss: Callable[[dict[str, Tensor], Tensor], Tensor],
    cached: Sequence[dict[str, Tensor]],
    targets: Sequence[Tensor],
    *,
    epochs: int,
    lr: float,
    batch: int,
    seed: int,
    clip: float | None = None,
    state: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Minimise a loss of inputs and targets in batches, half of them mirrored: AdamW, one cycle.

    Images of one size go in whole. Of others each batch has random squares, as wide as the shorter side: nothing is
    padded, and evaluation sees the same features of whole images.
    """
    sides = window_sides(cached)
    optimizer = torch.optim.AdamW((p for p in student.parameters() if p.requires_grad), lr=lr, weight_decay=0.01)
    steps = epochs * (len(cached) // batch or 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Stateful] = {"student": student, "optimizer": optimizer, "schedule": schedule}
    for epoch in epochs_left(epochs, state, generator, **parts):
        student.train()
        losses = []
        order = torch.randperm(len(cached), generator=generator)
        for rows in order.split(batch):
            if len(rows) < min(batch, len(cached)):
                continue
            flip = bool(torch.rand((), generator=generator) < 0.5)
            examples = [(cached[i], targets[i]) for i in rows]
            if sides is not None:
                examples = [window(maps, own, sides, generator) for maps, own in examples]
            inputs = {name: torch.cat([maps[name] for maps, _ in examples]) for name in cached[0]}
            target = torch.stack([own for _, own in examples]).long()
            if flip:
                inputs, target = {name: maps.flip(-1) for name, maps in inputs.items()}, target.flip(-1)
            value = loss(inputs, target)
            optimizer.zero_grad()
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(student.parameters(), clip)
            optimizer.step()
            schedule.step()
            losses.append(float(value.detach()))
        if on_epoch is not None:
            on_epoch(epoch, float(np.mean(losses)))
