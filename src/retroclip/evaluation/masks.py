"""Images with masks made ready for one task: class indices, checked; what can't be used is counted."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retroclip.errors import BadImageError, SourceError, TaskError
from retroclip.evaluation.confusion import IGNORE
from retroclip.evaluation.result import hash_samples
from retroclip.evaluation.samples import MAX_REJECTED, NAMED_LABELS

if TYPE_CHECKING:
    from retroclip.tasks import Task

MASK_VALUES = 2**16  # those of 16 bits


@dataclass(eq=False)
class MaskedImages:
    """Images with masks (H, W) of class indices, 255 where a pixel belongs to no class of the task."""

    name: str
    split: str | None
    keys: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    masks: list[NDArray[np.uint16]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    without_mask: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def hash(self) -> str:
        """16 hex digits that name images and masks."""
        return hash_samples(self.images, [hashlib.sha256(mask.tobytes()).hexdigest() for mask in self.masks])


def load_masks(task: "Task", dataset: str | Path, *, where: str | None = None) -> MaskedImages:
    """Read a source with masks for a task; images without one are counted.

    Sources are parquet files with a column `mask`, VOC folders, whose split is the one that `ImageSets/Segmentation`
    lists, folders of images beside folders of masks (`pairs.mask_folder`), and COCO's panoptic json. Mask values are
    named by the source (`pairs.mask_classes`), or else are the task's classes in order, 255 being none; from 1 on, and
    0 none, where the task has `reduce_zero_label`. Values whose name is in the task's `ignored` become 255. A mask of
    another size than its image, or one that can't be read, is rejected.
    Raises SourceError (no mask, over 10 % rejected), TaskError (a value that means no class).
    """
    from retroclip.pairs import Rejected, decode_image, mask_classes, mask_source, read_pairs

    path, _, split = str(dataset).partition("#")
    data = MaskedImages(Path(path).stem, split or None)
    names = mask_classes(dataset)
    table = mask_table(task, names)
    for pair in read_pairs(mask_source(dataset), where=where):
        if isinstance(pair, Rejected):
            data.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        if pair.image is None or pair.mask is None:
            data.without_mask += 1
            continue
        try:
            values = read_mask(pair.mask)
            size = decode_image(pair.image).size
        except BadImageError as error:
            data.rejected.append(f"{pair.key}: {error}")
            continue
        if values.shape != size[::-1]:
            shown = " x ".join(map(str, values.shape[::-1]))
            data.rejected.append(f"{pair.key}: a mask of {shown} for an image of {size[0]} x {size[1]} pixels")
            continue
        unknown = [int(value) for value in np.unique(values) if table[value] < 0]
        if unknown:
            shown = ", ".join((names or {}).get(value, str(value)) for value in unknown[:NAMED_LABELS])
            lacking = f"which task {task.name!r} lacks: add them to its classes or `ignored`"
            raise TaskError(f"{dataset} has pixels of {shown}, {numbering(task) if names is None else lacking}")
        data.keys.append(pair.key)
        data.images.append(pair.image)
        data.masks.append(table[values].astype(np.uint16))
    if not data.images and not data.rejected:
        wanted = "a column `mask`, a VOC folder, or a folder `images` with masks of the same names in `annotations`"
        raise SourceError(f"{dataset} has no mask: segmentation needs {wanted}")
    check_share(data, str(dataset))
    return data


def load_unmasked(dataset: str | Path) -> MaskedImages:
    """Images whose masks, if any, are not read: all their pixels have class 0. Unreadable images are rejected.

    Raises SourceError (no image, over 10 % rejected).
    """
    from retroclip.pairs import Rejected, decode_image, mask_source, read_pairs

    path, _, split = str(dataset).partition("#")
    data = MaskedImages(Path(path).stem, split or None)
    for pair in read_pairs(mask_source(dataset)):
        try:
            if isinstance(pair, Rejected) or pair.image is None:
                raise BadImageError(pair.reason if isinstance(pair, Rejected) else "no image")
            width, height = decode_image(pair.image).size
        except BadImageError as error:
            data.rejected.append(f"{pair.key}: {error}")
            continue
        data.keys.append(pair.key)
        data.images.append(pair.image)
        data.masks.append(np.zeros((height, width), np.uint16))
    if not data.images and not data.rejected:
        raise SourceError(f"{dataset} has no image: check the split")
    check_share(data, str(dataset))
    return data


def check_share(data: MaskedImages, source: str) -> None:
    """SourceError where over 10 % of the images or masks were rejected."""
    if len(data.rejected) > MAX_REJECTED * (len(data) + len(data.rejected)):
        raise SourceError(f"{source}: {len(data.rejected)} images or masks can't be used, such as {data.rejected[0]}")


def read_mask(data: bytes) -> NDArray[np.integer]:
    """The values (H, W) of an encoded mask, a palette's indices as they are; BadImageError if it can't be read."""
    from retroclip.pairs import MAX_PIXELS

    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "BMP"))
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError("its mask exceeds the pixel limit")
        values = np.asarray(image)
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError(f"its mask can't be read: {' '.join(str(error).split())[:80]}") from None
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise BadImageError("its mask has colours instead of class indices")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < MASK_VALUES:
        raise BadImageError(
            f"its mask has values from {values.min()} to {values.max()}, not from 0 to {MASK_VALUES - 1}"
        )
    return values


def mask_table(task: "Task", names: dict[int, str] | None) -> NDArray[np.int64]:
    """Class index of every mask value (65536,): 255 for ignored ones, −1 for values that mean no class of the task."""
    first = int(task.reduce_zero_label)
    if first + len(task.classes) > IGNORE:
        limit = IGNORE - first
        raise TaskError(f"task {task.name!r} has {len(task.classes)} classes: segmentation takes at most {limit}")
    table = np.full(MASK_VALUES, -1, np.int64)
    table[IGNORE] = IGNORE
    if names is None:
        table[:first], table[first : first + len(task.classes)] = IGNORE, np.arange(len(task.classes))
    for value, name in (names or {}).items():
        if name in task.label_index:
            table[value] = task.label_index[name]
        elif name in task.ignored_index:
            table[value] = IGNORE
    return table


def numbering(task: "Task") -> str:
    """What mask values mean that nothing names, for a value that has no meaning."""
    first, last = int(task.reduce_zero_label), int(task.reduce_zero_label) + len(task.classes) - 1
    advice = (
        "leave out the task's `reduce_zero_label` if its classes count from 0"
        if task.reduce_zero_label
        else "say `reduce_zero_label: true` in the task if its classes count from 1, and 0 is none"
    )
    return (
        f"but task {task.name!r} has {first} ({task.classes[0]}) to {last} ({task.classes[-1]}), and "
        f"{'0 and 255 for none' if first else '255 for none'}: {advice}, or name the values (`mask_classes`)"
    )
