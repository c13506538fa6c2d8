"""The set that a protocol trains on: it shows no evaluated picture, and what can't be used of it is reported."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retroclip.errors import SourceError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

MARK = "training set: "
"""In front of what was rejected of a training set, beside what was rejected of the evaluated one."""


class Images(Protocol):
    """What `load_boxes` and `load_masks` read."""

    images: list[bytes]
    rejected: list[str]


def check_training(train: str, learnt: Images, evaluated: Images) -> None:
    """Name what was rejected of a training set with what was of the evaluated one.

    SourceError where they share a picture, whatever file format each has it in (pixels are compared, not bytes).
    """
    if pictures(learnt.images) & pictures(evaluated.images):
        raise SourceError(f"{train} holds images that are evaluated: train on another split")
    evaluated.rejected += of_training(learnt.rejected)


def data_name(dataset: str, split: str | None) -> str:
    """`dataset#split`."""
    return f"{dataset}#{split}" if split else dataset


def set_name(train: str) -> str:
    """The `data_name` of a source: how results name a training set, without the folder it lies in."""
    path, _, split = train.partition("#")
    return data_name(Path(path).stem, split)


def training_state(work: str, kind: str, encoder: "Encoder", task: "Task", settings: Mapping[str, Any]) -> Path:
    """The file in the folder `work` where a training keeps its state.

    Another model, task or setting (those of the training, what it learns from included) means another file.
    """
    from retroclip.training.epochs import state_file
    from retroclip.version import __version__

    about = {"retroclip": __version__, "model": encoder.fingerprint, "precision": encoder.precision}
    return state_file(work, kind, about | {"task": task.model_dump(mode="json"), "settings": dict(settings)})


def of_training(rejected: Sequence[str]) -> list[str]:
    """Reasons marked as those of the training set."""
    return [MARK + reason for reason in rejected]


def pictures(images: Iterable[Any]) -> set[bytes]:
    """The `picture` of each encoded image."""
    return {picture(image) for image in images}


def picture(image: Any) -> bytes:
    """A digest of an encoded or PIL image's size and pixels."""
    from retroclip.pairs import decode_image

    decoded = decode_image(image).convert("RGB")
    return hashlib.sha256(repr(decoded.size).encode() + decoded.tobytes()).digest()
