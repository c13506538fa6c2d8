"""A folder of images and one of masks beside it: ADE20K's, Cityscapes', COCO-Stuff's, or one's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs import mask_names
from retroclip.pairs.image import IMAGE_SUFFIXES
from retroclip.pairs.pair import Pair, Rejected, printable
from retroclip.pairs.readers import no_such_split, register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.walk import walk
from retroclip.pairs.where import Predicate

MASK_SUFFIXES = tuple(case for suffix in (".png", ".bmp", ".tif", ".tiff") for case in (suffix, suffix.upper()))
COCO_SPLITS = ("train2017", "val2017")
TRAIN_IDS = "_labelTrainIds"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where images and masks lie, and how the names of an image's file and its mask's end after what they share."""

    images: str
    masks: str
    image_end: str
    mask_end: str
    names: dict[int, str] | None = None


LAYOUTS = (
    Layout("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelIds", mask_names.CITYSCAPES_IDS),
    Layout("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelTrainIds", mask_names.CITYSCAPES_TRAIN_IDS),
    *(Layout("images", masks, "", end) for masks in ("annotations", "masks", "labels") for end in ("", TRAIN_IDS)),
)


@register_reader
class MaskFolderReader:
    """Every image of `images/` with the mask of its name in `annotations/` (ADE20K, COCO-Stuff), `masks/` or `labels/`,
    or of Cityscapes' `leftImg8bit/` with that in `gtFine/`, in the order of their paths.

    Splits are the folders in both. What mask values mean is known of Cityscapes and of COCO-Stuff (`mask_value_names`).
    """

    kind = "mask-folder"

    def accepts(self, path: Path) -> bool:
        return find_layout(path) is not None

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        layout = _layout(ref)
        root = _root(ref, layout)
        if next(_images(root, layout), None) is None:
            raise SourceError(f"no image found in {root}; images are {', '.join(sorted(IMAGE_SUFFIXES))} files")
        return _read(ref, layout, root, where)

    def count(self, ref: SourceRef) -> int | None:
        layout = _layout(ref)
        return sum(1 for _ in _images(_root(ref, layout), layout))


def find_layout(path: Path) -> Layout | None:
    """How a folder's images and masks lie: the first of `LAYOUTS` in which an image has a mask; None where none has."""
    for layout in LAYOUTS:
        images, masks = path / layout.images, path / layout.masks
        if images.is_dir() and masks.is_dir():
            for folder, names in walk(masks):
                beside = images / folder.relative_to(masks)
                if beside.is_dir() and _masked(os.listdir(beside), names, layout):
                    return layout
    return None


def _masked(images: Iterable[str], masks: Iterable[str], layout: Layout) -> bool:
    """Whether any of the file names of images has its mask's among the others."""
    known = {stem for stem, suffix in map(os.path.splitext, images) if suffix.lower() in IMAGE_SUFFIXES}
    found = (stem for stem, suffix in map(os.path.splitext, masks) if suffix in MASK_SUFFIXES)
    ends = (stem.removesuffix(layout.mask_end) for stem in found if stem.endswith(layout.mask_end))
    return any(stem + layout.image_end in known for stem in ends)


def mask_value_names(path: Path) -> dict[int, str] | None:
    """Class names by mask value of a folder that `MaskFolderReader` accepts, where it is a known benchmark's."""
    layout = find_layout(path)
    if layout is None:
        return None
    if layout.names is not None:
        return layout.names
    if not any((path / layout.masks / split).is_dir() for split in COCO_SPLITS):
        return None
    return mask_names.COCO_STUFF_TRAIN_IDS if layout.mask_end else mask_names.COCO_STUFF_IDS


def _layout(ref: SourceRef) -> Layout:
    layout = find_layout(ref.path)
    if layout is None:
        raise SourceError(f"{ref.path} has no images with masks any more")
    return layout


def _root(ref: SourceRef, layout: Layout) -> Path:
    """The folder of the images of a split, or of all."""
    images = ref.path / layout.images
    if ref.split is None:
        return images
    if not (images / ref.split).is_dir():
        raise no_such_split(ref, {entry.name for entry in os.scandir(images) if entry.is_dir()})
    return images / ref.split


def _read(ref: SourceRef, layout: Layout, root: Path, where: Predicate | None) -> Iterator[Pair | Rejected]:
    for image in _images(root, layout):
        pair = _pair(ref, layout, root, image)
        if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
            yield pair


def _pair(ref: SourceRef, layout: Layout, root: Path, image: Path) -> Pair | Rejected:
    stem = image.stem[: len(image.stem) - len(layout.image_end)]
    key = printable(image.relative_to(root).with_name(stem).as_posix())
    beside = ref.path / layout.masks / image.parent.relative_to(ref.path / layout.images)
    masks = (beside / f"{stem}{layout.mask_end}{suffix}" for suffix in MASK_SUFFIXES)
    mask = next((path for path in masks if path.is_file()), None)
    try:
        return Pair(
            key=key, image=image.read_bytes(), source=ref.name, mask=None if mask is None else mask.read_bytes()
        )  # fmt: skip
    except OSError as error:
        return Rejected(key, ref.name, f"can't read {Path(str(error.filename)).name}: {error.strerror or error}")


def _images(root: Path, layout: Layout) -> Iterator[Path]:
    for folder, names in walk(root):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES and stem.endswith(layout.image_end):
                yield folder / name
