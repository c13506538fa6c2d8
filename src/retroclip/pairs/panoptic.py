"""COCO's panoptic masks, whose colours are numbers of segments, made masks of category ids."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retroclip.pairs.image import MAX_PIXELS

VOID = 255  # what pixels of no segment get, and so no category's id


def panoptic_mask(path: Path, annotation: Mapping[str, Any]) -> bytes | None:
    """The PNG of category ids of one image, 255 for none, or None where the annotation's file isn't there.

    `path` is the annotation file (`panoptic_val2017.json`), whose masks lie in the folder of that name. A pixel's
    segment is R + 256·G + 65536·B, 0 is none. Raises OSError; ValueError for another kind of mask, or a segment or
    category that isn't in the annotation or does not fit.
    """
    file = path.with_suffix("") / Path(str(annotation["file_name"])).name
    if not file.is_file():
        return None
    categories = {0: VOID} | {int(each["id"]): int(each["category_id"]) for each in annotation["segments_info"]}
    if any(not 0 <= own < VOID for number, own in categories.items() if number):
        raise ValueError(f"a category's id is not below {VOID}")
    with Image.open(file, formats=("PNG",)) as image:
        if image.mode != "RGB" or image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{file.name} is no RGB image of segments, or exceeds the pixel limit")
        segments = np.asarray(image, np.int64) @ np.array([1, 256, 65536])
    numbers, places = np.unique(segments, return_inverse=True)
    unknown = [int(number) for number in numbers if int(number) not in categories]
    if unknown:
        raise ValueError(f"{file.name} has a segment {unknown[0]} that its annotation lacks")
    values = np.array([categories[int(number)] for number in numbers], np.uint8)[places.reshape(segments.shape)]
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()
