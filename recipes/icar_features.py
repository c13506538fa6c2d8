"""The frozen image features that iCAR's ablations in small learn on, kept on disk."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.encoders.images import image_batches
from retroclip.evaluation import Samples, load_samples
from retroclip.evaluation.shots import without_evaluated
from retroclip.files import whole_file
from retroclip.tasks import Task


class Features:
    """Image features (n, 1280) and labels of a data set's rows, at most `per_class` of each, kept on disk.

    evaluated: another split, and how many of each class are evaluated of it: these are left out with all that is near.
    """

    def __init__(
        self,
        encoder: Any,
        task: Task,
        source: Path,
        split: str,
        work: Path,
        per_class: int,
        evaluated: tuple[str, int] | None = None,
    ) -> None:
        file = work / f"{source.stem}-{split}-{per_class}{'' if evaluated is None else '-cleared'}.pt"
        if not file.exists():
            samples = first_of_each(load_samples(task, f"{source}#{split}"), per_class)
            if evaluated is not None:
                other, count = evaluated
                without_evaluated(samples, [first_of_each(load_samples(task, f"{source}#{other}"), count)], encoder)
            labels = [samples.truth(row) for row in range(len(samples))]
            keep({"x": conv_features(encoder, samples.images), "labels": labels}, file)
            told = f", {len(samples.rejected)} left out" if samples.rejected else ""
            print(f"{file.name}: {len(samples)} images{told}", flush=True)
        kept = torch.load(file, weights_only=True)
        self.x, self.labels = kept["x"], kept["labels"]


def first_of_each(samples: Samples, per_class: int) -> Samples:
    """The first `per_class` samples of each class, in order."""
    taken: dict[int, int] = defaultdict(int)
    rows = []
    for row, label in enumerate(samples.labels.tolist()):
        taken[label] += 1
        if taken[label] <= per_class:
            rows.append(row)
    keys, images = ([values[row] for row in rows] for values in (samples.keys, samples.images))
    return replace(samples, keys=keys, images=images, labels=samples.labels[rows])


def keep(features: dict[str, Any], file: Path) -> None:
    """A feature file, which gets its name when it is whole."""
    with whole_file(file) as unfinished:
        torch.save(features, unfinished)


@torch.no_grad()
def conv_features(encoder: Any, images: list[bytes]) -> Tensor:
    """Pooled output of the builtin's convolutional net, unit variance a row: (n, 1280)."""
    net = encoder.model.visual.trunk.patch_embed.backbone
    rows = [net(pixels).mean((2, 3)) for pixels in image_batches(images, encoder.preprocess, 64)]
    return F.layer_norm(torch.cat(rows), (1280,))
