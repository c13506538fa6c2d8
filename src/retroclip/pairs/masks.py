"""What the values in a source's masks mean, and which images the masks are of."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from retroclip.errors import SourceError
from retroclip.pairs.coco import panoptic_classes
from retroclip.pairs.mask_folder import mask_value_names
from retroclip.pairs.reference import resolve
from retroclip.pairs.voc import VOC_MASK_CLASSES, VocReader, segmentation_split


def mask_source(source: str | Path) -> str | Path:
    """The source as a benchmark of segmentation reads it: a VOC folder's split by `ImageSets/Segmentation`.

    Raises:
        SourceError: the source doesn't exist.
    """
    ref = resolve(source)[0]
    if ref.split is None or not VocReader().accepts(ref.path):
        return source
    return f"{str(source).rpartition('#')[0]}#{segmentation_split(ref.path, ref.split)}"


def mask_classes(source: str | Path) -> dict[int, str] | None:
    """Class names by mask value, or None where the source doesn't tell.

    A parquet file tells in its schema's metadata (`mask_classes`: JSON from value to name); of folders VOC's,
    Cityscapes' and COCO-Stuff's are known; a panoptic json of COCO's names its categories.

    Raises:
        SourceError: the source doesn't exist, or its names are not such a JSON object.
    """
    ref = resolve(source)[0]
    path = ref.path
    if VocReader().accepts(path):
        return dict(VOC_MASK_CLASSES)
    if path.is_dir():
        return mask_value_names(path)
    if path.suffix.lower() == ".json":
        return panoptic_classes(ref)
    if path.suffix.lower() not in (".parquet", ".pq"):
        return None
    stored = (pq.read_schema(path).metadata or {}).get(b"mask_classes")
    if stored is None:
        return None
    try:
        return {int(value): str(name) for value, name in json.loads(stored).items()}
    except (ValueError, AttributeError) as error:
        raise SourceError(f"{path}: mask_classes in its metadata is not a JSON object of value: name") from error
