"""Annotated boxes made ready for one task: class indices, checked and clipped; what can't be used is counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import BadImageError, SourceError, TaskError
from retroclip.evaluation.average_precision import Boxes
from retroclip.evaluation.result import hash_samples
from retroclip.evaluation.samples import MAX_REJECTED, NAMED_LABELS

if TYPE_CHECKING:
    from retroclip.tasks import Task

OVER_EDGE = 1.0  # pixels: by how much rounding may carry a box over the edge without being counted as clipped


@dataclass(eq=False)
class BoxedImages:
    """Images with boxes: `boxes` (n, 4) are x, y, w, h in pixels, `labels` (n,) classes, `image_of` (n,) positions.

    `numbers` are the positions by COCO's `image_id`, where the source has it.
    `crowd` (n,) marks boxes that are no object of their own (crowds, VOC's difficult ones): neither right nor wrong.
    `verified` and `not_exhaustive` hold class indices by image where a set (LVIS) looked for some classes only, and for
    some of these not to the end.
    """

    name: str
    split: str | None
    classes: list[str]
    keys: list[str] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    image_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    sizes: list[tuple[int, int]] = field(default_factory=list)
    verified: dict[int, set[int]] = field(default_factory=dict)
    not_exhaustive: dict[int, set[int]] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    clipped: int = 0
    ignored: int = 0
    without_boxes: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def hash(self) -> str:
        """16 hex digits that name images, boxes and labels."""
        own = [np.flatnonzero(self.image_of == i) for i in range(len(self))]
        texts = [repr([(int(self.labels[j]), *self.boxes[j].round(3)) for j in rows]) for rows in own]
        return hash_samples(self.images, texts)

    @property
    def truth(self) -> Boxes:
        """The boxes as ground truth for `average_precision`, with a crowd as large as the image for each class that was
        not searched to the end: what matches no box there is neither right nor wrong, as in LVIS's own evaluation."""
        rest = [(image, label) for image, own in self.not_exhaustive.items() for label in sorted(own)]
        images, labels = (np.array([row[i] for row in rest], dtype=np.int64) for i in (0, 1))
        whole = np.array([(0, 0, *self.sizes[image]) for image, _ in rest], dtype=np.float64).reshape(-1, 4)
        return Boxes(
            np.concatenate([self.image_of, images]),
            np.concatenate([self.labels, labels]),
            np.concatenate([self.boxes, whole]),
            crowd=np.concatenate([self.crowd, np.ones(len(rest), dtype=bool)]),
        )

    def asked(self, image: int) -> NDArray[np.bool_]:
        """Which classes (K,) were looked for in an image: all, or LVIS's positive and negative ones."""
        classes = np.arange(len(self.classes))
        return np.isin(classes, sorted(self.verified.get(image, classes)))

    def only_asked(self, detections: Boxes) -> Boxes:
        """Detections without those of classes that nobody looked for in their image."""
        if not self.verified:
            return detections
        table = np.stack([self.asked(image) for image in range(len(self))])
        return detections.select(table[detections.image, detections.label])

    @property
    def missing_classes(self) -> list[str]:
        """Classes of the task without a box."""
        present = set(self.labels[~self.crowd].tolist())
        return [name for index, name in enumerate(self.classes) if index not in present]


def check_box(box: Any, width: int, height: int) -> tuple[tuple[float, float, float, float], bool] | str:
    """A box (label, x, y, w, h) inside an image, and whether it was clipped by a pixel; or why it can't be used."""
    try:
        _, x, y, w, h = box
        x, y, w, h = float(x), float(y), float(w), float(h)
    except (TypeError, ValueError):
        return "a box isn't (label, x, y, w, h)"
    if not np.isfinite([x, y, w, h]).all():
        return "a box with values that aren't finite"
    if w <= 0 or h <= 0:
        return f"a box of no area ({w:g} x {h:g})"
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        return f"a box outside the image of {width} x {height} pixels"
    over = max(left - x, top - y, x + w - right, y + h - bottom)
    return (left, top, right - left, bottom - top), over > OVER_EDGE


def load_boxes(task: "Task", dataset: str | Path, *, where: str | None = None, empty: bool = False) -> BoxedImages:
    """Read a source with boxes for a task: parquet with a `boxes` column, COCO/LVIS json, a VOC folder.

    Images without a box are left out and counted unless `empty` (a detector may find something there). Unreadable
    images, and boxes without area or outside their image, are named in `rejected`; labels in the task's `ignored` are
    counted and passed over. Raises SourceError (no box at all, over 10 % unusable), TaskError (a label no class has).
    """
    from retroclip.pairs import Rejected, decode_image, read_pairs

    path, _, split = str(dataset).partition("#")
    found = BoxedImages(name=Path(path).stem, split=split or None, classes=list(task.classes))
    rows: list[tuple[int, tuple[float, float, float, float], str, bool]] = []
    seen = 0
    for pair in read_pairs(dataset, where=where):
        if isinstance(pair, Rejected):
            found.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        crowds = pair.metadata.get("ignored_boxes", [])
        if pair.image is None or not (pair.boxes or crowds or empty):
            found.without_boxes += 1
            continue
        try:
            size = decode_image(pair.image).size
        except BadImageError as error:
            found.rejected.append(f"{pair.key}: {error}")
            continue
        position = len(found.images)
        for box, crowd in [*((box, False) for box in pair.boxes), *((box, True) for box in crowds)]:
            seen += 1
            checked = check_box(box, *size)
            if isinstance(checked, str):
                found.rejected.append(f"{pair.key}: {checked}")
            elif str(box[0]) in task.ignored_index and str(box[0]) not in task.label_index:
                found.ignored += 1
            else:
                found.clipped += checked[1]
                rows.append((position, checked[0], str(box[0]), crowd))
        found.keys.append(pair.key)
        found.images.append(pair.image)
        found.sizes.append(size)
        _note_record(found, position, pair.metadata, task)
    if len(found.rejected) > MAX_REJECTED * (seen + len(found.images)):
        raise SourceError(
            f"{dataset}: {len(found.rejected)} boxes or images can't be used, such as {found.rejected[0]}"
        )
    if not rows:
        raise SourceError(f"{dataset} has no box: regions need a column `boxes`, a COCO or LVIS json, or a VOC folder")
    found.image_of = np.array([row[0] for row in rows], dtype=np.int64)
    found.boxes = np.array([row[1] for row in rows])
    found.labels = box_labels([row[2] for row in rows], task, str(dataset))
    found.crowd = np.array([row[3] for row in rows])
    return found


def _note_record(found: BoxedImages, position: int, metadata: dict[str, Any], task: "Task") -> None:
    """Take over what a COCO or LVIS file says of an image: its number, and which classes were looked for."""
    if isinstance(metadata.get("image_id"), int):
        found.numbers[metadata["image_id"]] = position
    for name, target in (("verified", found.verified), ("not_exhaustive", found.not_exhaustive)):
        if name in metadata:
            target[position] = {task.label_index[each] for each in metadata[name] if each in task.label_index}


def box_labels(labels: Sequence[str], task: "Task", source: str) -> NDArray[np.int64]:
    """Class indices (n,) of box labels; TaskError names those that the task lacks."""
    unknown = sorted({label for label in labels if label not in task.label_index})
    if unknown:
        named = ", ".join(map(repr, unknown[:NAMED_LABELS]))
        more = f" and {len(unknown) - NAMED_LABELS} more" if len(unknown) > NAMED_LABELS else ""
        raise TaskError(
            f"{source} has boxes of {named}{more}, which task {task.name!r} lacks: add them to its classes, "
            "synonyms or `ignored`"
        )
    return np.array([task.label_index[label] for label in labels], dtype=np.int64)
