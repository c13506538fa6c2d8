"""Labelled images made ready for one task: class indices, a hash, and their embeddings computed once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.errors import BadImageError, SourceError, TaskError
from retroclip.evaluation.metrics import MULTI_LABEL
from retroclip.evaluation.result import hash_samples

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.pairs import LabelledSet
    from retroclip.tasks import Task

MAX_REJECTED = 0.1
NAMED_LABELS = 5


@dataclass(eq=False)
class Samples:
    """The evaluation set of one task. `labels` `(n,)` are indices into `classes`; `images` are encoded bytes.

    Where images may have several classes, `labels` `(n, K)` are booleans. `unlabelled` images of the data set have none
    and are not here.

    `base_embeddings` caches the embeddings `(n, d)` under the one encoder that `embed_base` was first called with.
    """

    dataset: str
    split: str | None
    keys: list[str]
    images: list[bytes]
    labels: NDArray[Any]
    classes: list[str]
    rejected: list[str] = field(default_factory=list)
    unlabelled: int = 0
    base_seconds: float = 0.0
    _base: tuple["Encoder", torch.Tensor] | None = None
    _hash: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def hash(self) -> str:
        if self._hash is None:
            self._hash = hash_samples(self.images, [self.truth(row) for row in range(len(self))])
        return self._hash

    @property
    def several(self) -> bool:
        """Whether images may have several classes."""
        return self.labels.ndim == 2

    def truth(self, row: int) -> str:
        """The class of a sample, or its classes with line breaks between."""
        if self.several:
            return "\n".join(self.classes[index] for index in np.flatnonzero(self.labels[row]))
        return self.classes[self.labels[row]]

    @property
    def missing_classes(self) -> list[str]:
        """Classes of the task without a single image."""
        present = set(np.flatnonzero(self.labels.any(0)).tolist() if self.several else self.labels.tolist())
        return [name for index, name in enumerate(self.classes) if index not in present]

    def embed_base(self, encoder: "Encoder", *, batch_size: int = 64) -> torch.Tensor:
        """Embeddings `(n, d)` under `encoder`, computed once and kept; `base_seconds` says how long it took.

        Images that can't be read are left out first, and named in `rejected`.
        """
        if self._base is None or self._base[0] is not encoder:
            start = time.perf_counter()
            embeddings = self.embed(encoder, batch_size=batch_size)
            self._base, self.base_seconds = (encoder, embeddings), time.perf_counter() - start
        return self._base[1]

    def has_base(self, encoder: "Encoder") -> bool:
        """Whether the embeddings under this very encoder are kept already."""
        return self._base is not None and self._base[0] is encoder

    def embed(self, encoder: "Encoder", *, batch_size: int = 64) -> torch.Tensor:
        """Embeddings `(n, d)` of the readable images under any encoder."""
        try:
            return encoder.encode_images(self.images, batch_size=batch_size)
        except BadImageError:
            # Looked for only now: decoding everything beforehand would double the cost of every clean run.
            self.drop_unreadable()
            return encoder.encode_images(self.images, batch_size=batch_size)

    def drop_unreadable(self) -> None:
        """Leave out images that can't be decoded, naming them in `rejected`; SourceError if over 10 % are bad."""
        self.leave_out(unreadable(self.images, self.dataset))

    def leave_out(self, bad: Mapping[int, str]) -> None:
        """Leave out the samples at these positions, naming each with its reason in `rejected`."""
        if not bad:
            return
        self.rejected += [f"{self.keys[index]}: {reason}" for index, reason in bad.items()]
        kept = [index for index in range(len(self.images)) if index not in bad]
        self.keys = [self.keys[i] for i in kept]
        self.images = [self.images[i] for i in kept]
        self.labels = self.labels[kept]
        self._base = self._hash = None


def unreadable(images: Sequence[bytes], source: str) -> dict[int, str]:
    """Positions and reasons of the images that can't be decoded; SourceError if over 10 % are bad."""
    from retroclip.pairs import decode_image

    bad = {}
    for index, image in enumerate(images):
        try:
            decode_image(image)
        except BadImageError as error:
            bad[index] = str(error)
    if len(bad) > MAX_REJECTED * len(images):
        raise SourceError(
            f"{source}: {len(bad)} of {len(images)} images can't be read, such as {next(iter(bad.values()))}"
        )
    return bad


def load_samples(task: "Task", dataset: "LabelledSet | str | Path | Samples", *, where: str | None = None) -> Samples:
    """Read a data set for a task.

    Raises SourceError for an empty one, TaskError for labels that are no class or synonym of the task, or for several
    labels an image where the task's metric isn't for those.
    """
    if isinstance(dataset, Samples):
        return dataset
    if isinstance(dataset, str | Path):
        from retroclip.pairs import load_labelled

        dataset = load_labelled(dataset, where=where)
    if not dataset.images:
        raise SourceError(f"{_named(dataset)} has no labelled image: check the split and the filter")
    return Samples(
        dataset=dataset.name,
        split=dataset.split,
        keys=list(dataset.keys),
        images=list(dataset.images),
        labels=_labels(dataset, task),
        classes=list(task.classes),
        rejected=[f"{row.key}: {row.reason}" for row in dataset.rejected],
        unlabelled=dataset.skipped,
    )


def _labels(dataset: "LabelledSet", task: "Task") -> NDArray[Any]:
    return class_marks(dataset, task) if dataset.label_sets else class_indices(dataset.labels, task, _named(dataset))


def class_marks(dataset: "LabelledSet", task: "Task") -> NDArray[np.bool_]:
    """Marks `(n, K)` of the classes of each image; TaskError where the task's metric can't be computed from them."""
    source = _named(dataset)
    if task.metric not in MULTI_LABEL:
        raise TaskError(
            f"{source} has several labels an image, and the metric of task {task.name!r}, {task.metric}, is for one:"
            f" take --metric {' or '.join(MULTI_LABEL)}"
        )
    flat = class_indices([label for own in dataset.label_sets for label in own], task, source)
    marks = np.zeros((len(dataset.label_sets), len(task.classes)), dtype=bool)
    marks[np.repeat(np.arange(len(marks)), [len(own) for own in dataset.label_sets]), flat] = True
    return marks


def class_indices(labels: Sequence[str], task: "Task", source: str) -> NDArray[np.int64]:
    """Indices `(n,)` of the labels in `task.classes`, by name or synonym; TaskError names those that are neither."""
    unknown = sorted({label for label in labels if label not in task.label_index})
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:NAMED_LABELS])
        more = f" and {len(unknown) - NAMED_LABELS} more" if len(unknown) > NAMED_LABELS else ""
        raise TaskError(
            f"{source} has labels that task {task.name!r} lacks: {named}{more}; add them as classes or synonyms"
        )
    return np.array([task.label_index[label] for label in labels], dtype=np.int64)


def _named(dataset: "LabelledSet") -> str:
    return f"{dataset.name}#{dataset.split}" if dataset.split not in ("", "all") else dataset.name
