"""Pascal VOC folders: JPEGImages with Annotations/*.xml, SegmentationClass/*.png or both, and ImageSets beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from retroclip.errors import SourceError
from retroclip.pairs.image import IMAGE_SUFFIXES
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.readers import no_such_split, register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", "ImageSets"
MASKS = ("SegmentationClass", "SegmentationClassAug")
"""VOC's own, and those that SBD adds to its `trainaug`: the first one that has an image's mask counts."""
VOC_MASK_CLASSES = dict(enumerate([
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]))  # fmt: skip


@register_reader
class VocReader:
    """Images of a VOC folder in the order of their names, or those that `ImageSets/*/SPLIT.txt` lists.

    Of several lists of one name `Main`'s is taken; `#Segmentation/val` asks for another one.
    VOC counts pixels from 1 and includes the last one: (1, 1, 10, 10) becomes x 0, y 0, w 10, h 10. Boxes marked
    difficult go to `metadata["ignored_boxes"]`; `metadata["labels"]` are the classes of the other ones.
    """

    kind = "voc"

    def accepts(self, path: Path) -> bool:
        return (path / IMAGES).is_dir() and any((path / name).is_dir() for name in (ANNOTATIONS, *MASKS))

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        keys = _keys(ref)
        if not keys:
            raise SourceError(f"{ref.path} lists no image")
        return _read(ref, keys, where)

    def count(self, ref: SourceRef) -> int | None:
        return len(_keys(ref))


def _keys(ref: SourceRef) -> list[str]:
    if ref.split is None:
        return sorted(path.stem for path in (ref.path / IMAGES).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    lists = _lists(ref.path, ref.split)
    if not lists:
        raise no_such_split(ref, {path.stem for path in (ref.path / SETS).glob("*/*.txt") if "_" not in path.stem})
    listed = lists.get("Main") or next(iter(lists.values()))
    return [line.split()[0] for line in listed.read_text(errors="replace").splitlines() if line.strip()]


def segmentation_split(path: Path, split: str) -> str:
    """How to ask for a split of a VOC folder as its segmentation benchmark lists it, fewer images than `Main` does."""
    return next((f"{kind}/{split}" for kind in _lists(path, split) if kind == "Segmentation"), split)


def _lists(path: Path, split: str) -> dict[str, Path]:
    """The files that list a split, by the folder that they lie in; `split` may name that, too."""
    kind, _, name = split.rpartition("/")
    found = (each for each in sorted((path / SETS).glob("*/*.txt")) if each.stem == name)
    return {each.parent.name: each for each in found if kind in ("", each.parent.name)}


def _read(ref: SourceRef, keys: list[str], where: Predicate | None) -> Iterator[Pair | Rejected]:
    for key in keys:
        pair = _pair(ref, key)
        if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
            yield pair


def _pair(ref: SourceRef, key: str) -> Pair | Rejected:
    if Path(key).name != key:
        return Rejected(key, ref.name, "the name leads out of the folder")
    images = (ref.path / IMAGES / f"{key}{suffix}" for suffix in (".jpg", *sorted(IMAGE_SUFFIXES)))
    image = next((path for path in images if path.is_file()), None)
    if image is None:
        return Rejected(key, ref.name, f"no image {key} in {IMAGES}")
    try:
        boxes, ignored = _boxes(ref.path / ANNOTATIONS / f"{key}.xml")
        mask = next((path for name in MASKS if (path := ref.path / name / f"{key}.png").is_file()), None)
        metadata: dict[str, Any] = {"labels": sorted({box[0] for box in boxes})}
        if ignored:
            metadata["ignored_boxes"] = ignored
        return Pair(
            key=key,
            image=image.read_bytes(),
            source=ref.name,
            boxes=tuple(boxes),
            mask=mask.read_bytes() if mask else None,
            metadata=metadata,
        )
    except (OSError, ValueError, ElementTree.ParseError) as error:
        return Rejected(key, ref.name, f"{key}.xml can't be read: {' '.join(str(error).split())[:120]}")


def _boxes(path: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Boxes (label, x, y, w, h) of one annotation, and those marked difficult; none where there is no file."""
    if not path.is_file():
        return [], []
    text = path.read_bytes()
    if b"<!" in text.replace(b"<!--", b""):
        raise ValueError("it declares a document type or entities, which VOC's files don't")
    boxes: list[tuple[Any, ...]] = []
    difficult: list[tuple[Any, ...]] = []
    for element in ElementTree.fromstring(text).iter("object"):
        name, corners = element.findtext("name", "").strip(), element.find("bndbox")
        if not name or corners is None:
            raise ValueError("an object has no name or no bndbox")
        left, top, right, bottom = (float(corners.findtext(side, "nan")) for side in ("xmin", "ymin", "xmax", "ymax"))
        box = (name, left - 1, top - 1, right - left + 1, bottom - top + 1)
        (difficult if element.findtext("difficult", "0").strip() == "1" else boxes).append(box)
    return boxes, difficult
