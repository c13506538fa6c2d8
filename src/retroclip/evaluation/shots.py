"""Labelled images to learn from: drawn from a train split, never among the evaluated ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from retroclip.errors import SourceError
from retroclip.evaluation.leakage import NEAR, near_samples
from retroclip.evaluation.samples import Samples

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

SAME, NEARLY = "is also an evaluated image", "is nearly an evaluated image"


@dataclass(eq=False)
class Shots:
    """m encoded images with the class of each, `labels` (m,)."""

    images: list[bytes]
    labels: torch.Tensor
    _embedded: tuple["Encoder", torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def embed(self, encoder: "Encoder") -> torch.Tensor:
        """Embeddings (m, d), computed once for the encoder they were last asked of."""
        if self._embedded is None or self._embedded[0] is not encoder:
            self._embedded = encoder, encoder.encode_images(self.images)
        return self._embedded[1]


def draw_shots(labels: torch.Tensor, shots: int | None, n_classes: int, *, seed: int = 0) -> torch.Tensor:
    """Rows (m,) of `shots` samples of each class (all where a class has fewer, or `shots` is None), by class.

    `labels` (n,) are class indices; a class's draw depends on its own samples and the seed alone.
    """
    if shots is None:
        return torch.arange(len(labels))
    rows = []
    for index in range(n_classes):
        own = torch.nonzero(labels == index).flatten()
        generator = torch.Generator().manual_seed(1_000_003 * seed + index)
        rows.append(own[torch.randperm(len(own), generator=generator)[:shots]])
    return torch.cat(rows)


def take_shots(train: Samples, shots: int | None, *, seed: int = 0) -> Shots:
    """The shots of one run; SourceError where some class of the task has none to learn from."""
    if train.several:
        raise SourceError(f"{train.dataset} has several labels an image: probes learn one")
    if train.missing_classes:
        missing = train.missing_classes
        raise SourceError(
            f"{train.dataset} has no image to learn {len(missing)} of the {len(train.classes)} classes from, such as"
            f" {', '.join(map(repr, missing[:5]))}: check its split, or leave them out of the task"
        )
    labels = torch.from_numpy(train.labels)
    rows = draw_shots(labels, shots, len(train.classes), seed=seed)
    return Shots([train.images[row] for row in rows.tolist()], labels[rows])


def without_evaluated(
    train: Samples, evaluated: Sequence[Samples], encoder: "Encoder | None" = None, *, threshold: float = NEAR
) -> Samples:
    """The training samples that are readable and none of the evaluated images; the others are named.

    Left out are the same bytes and, with an encoder, near-duplicates (`leakage.near_samples`). Raises SourceError where
    the same bytes leave nothing: the same split was named twice.
    """
    train.drop_unreadable()
    known = {_digest(image) for samples in evaluated for image in samples.images}
    repeated = {row for row, image in enumerate(train.images) if _digest(image) in known}
    if len(repeated) == len(train):
        raise SourceError(f"all images of {train.dataset} are evaluated: take the shots from another split (--train)")
    train.leave_out(dict.fromkeys(repeated, SAME))
    if encoder is not None:
        train.leave_out(dict.fromkeys(near_samples(train, evaluated, encoder, threshold=threshold), NEARLY))
    return train


def left_out(train: Samples) -> dict[str, int]:
    """How many images `without_evaluated` took out of a pool, by reason, as options of a `Result`."""
    reasons = [line.rpartition(": ")[2] for line in train.rejected]
    return {"train_also_evaluated": reasons.count(SAME), "train_near_duplicates": reasons.count(NEARLY)}


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()
