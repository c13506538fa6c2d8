"""COCO and LVIS annotation files (.json), images with boxes or with captions, and Karpathy's lists of captions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retroclip.errors import SourceError
from retroclip.pairs.pair import Pair, Rejected, clean_captions
from retroclip.pairs.panoptic import panoptic_mask
from retroclip.pairs.readers import no_such_split, register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

PARTS = ("images", "annotations")
NEEDED = {"images": (), "annotations": (), "categories": ("id", "name")}
REFERRING = ("id", "image_id", "category_id")


@register_reader
class CocoReader:
    """Every image of an annotation file, in its order, with its boxes in pixels, its captions or its panoptic mask.

    Image files are looked for beside the annotations, and where COCO and LVIS put them (`../val2017/`). Boxes of crowds
    go to `metadata["ignored_boxes"]`; LVIS's lists of classes that were looked for, or not to the end, become
    `metadata["verified"]` and `metadata["not_exhaustive"]`. Karpathy's files (`dataset_flickr30k.json`) name splits.
    """

    kind = "coco"

    def accepts(self, path: Path) -> bool:
        return path.suffix.lower() == ".json"

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        return _read(ref, _load(ref), where)

    def count(self, ref: SourceRef) -> int | None:
        return len(_load(ref)["images"])


def _load(ref: SourceRef) -> dict[str, Any]:
    path = ref.path
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} can't be read as JSON: {' '.join(str(error).split())[:160]}") from None
    if isinstance(record, dict) and _is_karpathy(record.get("images")):
        try:
            record = _from_karpathy(ref, record["images"])
        except (AttributeError, KeyError, TypeError):
            raise SourceError(f"{path}: an image lacks its `filename`, or `sentences` with a `raw` text each") from None
    elif ref.split is not None:
        raise SourceError(f"{path} is one split by itself: leave out '#{ref.split}'")
    missing = [name for name in PARTS if not isinstance(record, dict) or not isinstance(record.get(name), list)]
    if missing:
        raise SourceError(f"{path} has no list {missing[0]!r}: COCO and LVIS files have {', '.join(PARTS)}, categories")
    if not record["images"]:
        raise SourceError(f"{path} names no image")
    for name, needed in NEEDED.items():
        rows = record.get(name, [])
        odd = [row for row in rows if not _is_row(row, needed)] if isinstance(rows, list) else [rows]
        if odd:
            raise SourceError(f"{path} has {name} that are not of COCO's form, such as {json.dumps(odd[0])[:80]}")
    return record


def _is_row(row: Any, needed: tuple[str, ...]) -> bool:
    """Whether it is an object with these fields, whose references can be looked up."""
    whole = isinstance(row, dict) and all(name in row for name in needed)
    return whole and not any(isinstance(row.get(name), (list, dict)) for name in REFERRING)


def _is_karpathy(images: Any) -> bool:
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first and "filename" in first


def _from_karpathy(ref: SourceRef, images: list[dict[str, Any]]) -> dict[str, Any]:
    """The same in COCO's form, of one split or all; `restval` belongs to `train`, as in the papers that use it."""
    split_of = [("train" if each.get("split") == "restval" else str(each.get("split"))) for each in images]
    if ref.split is not None and ref.split not in split_of:
        raise no_such_split(ref, set(split_of))
    record: dict[str, Any] = {"images": [], "annotations": []}
    for number, (each, split) in enumerate(zip(images, split_of, strict=True)):
        if ref.split in (None, split):
            name = str(Path(str(each.get("filepath") or "")) / str(each["filename"]))
            record["images"].append({"id": number, "file_name": name})
            texts = [str(sentence.get("raw", "")).replace("\n", " ") for sentence in each["sentences"]]
            record["annotations"] += [{"image_id": number, "caption": text} for text in texts]
    return record


def panoptic_classes(ref: SourceRef) -> dict[int, str] | None:
    """Class names by mask value of a panoptic annotation file; None for other ones. SourceError as for reading it."""
    record = _load(ref)
    return _names(record) if any("segments_info" in each for each in record["annotations"]) else None


def _names(record: dict[str, Any]) -> dict[Any, str]:
    return {each["id"]: str(each["name"]).replace("_", " ") for each in record.get("categories", [])}


def _read(ref: SourceRef, record: dict[str, Any], where: Predicate | None) -> Iterator[Pair | Rejected]:
    names = _names(record)
    own: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in record["annotations"]:
        own[annotation.get("image_id")].append(annotation)
    folders = _folders(ref.path)
    for image in record["images"]:
        try:
            pair = _pair(ref, image, own.get(image.get("id"), []), names, folders)
        except (TypeError, ValueError) as error:
            pair = Rejected(str(image.get("file_name")), ref.name, f"it has annotations that can't be read: {error}")
        if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
            yield pair


def _pair(
    ref: SourceRef, image: dict[str, Any], own: list[dict[str, Any]], names: dict[Any, str], folders: list[Path]
) -> Pair | Rejected:
    name = str(image.get("file_name") or image.get("coco_url") or image.get("id"))
    key = Path(name).stem
    found = _find(image, name, folders)
    if found is None:
        return Rejected(key, ref.name, f"no image file {Path(name).name} near {ref.path.name}")
    boxes: list[tuple[Any, ...]] = []
    ignored: list[tuple[Any, ...]] = []
    for annotation in own:
        if "bbox" not in annotation:
            continue
        box = _box(annotation, names)
        if box is None:
            return Rejected(
                key, ref.name, f"annotation {annotation.get('id')} has no known category, or no four numbers"
            )
        (ignored if annotation.get("iscrowd") else boxes).append(box)
    metadata: dict[str, Any] = {"image_id": image.get("id")}
    if ignored:
        metadata["ignored_boxes"] = ignored
    if "neg_category_ids" in image:
        present = {box[0] for box in boxes}
        metadata["verified"] = sorted(present | _named(image["neg_category_ids"], names))
        metadata["not_exhaustive"] = sorted(_named(image.get("not_exhaustive_category_ids", []), names))
    segments = next((annotation for annotation in own if "segments_info" in annotation), None)
    try:
        data = found.read_bytes()
        mask = None if segments is None else panoptic_mask(ref.path, segments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Rejected(key, ref.name, f"can't read {found.name} or its mask: {' '.join(str(error).split())[:120]}")
    captions = clean_captions(str(each["caption"]) for each in own if "caption" in each)
    return Pair(
        key=key, image=data, captions=captions, source=ref.name, boxes=tuple(boxes), mask=mask, metadata=metadata
    )  # fmt: skip


def _box(annotation: dict[str, Any], names: dict[Any, str]) -> tuple[Any, ...] | None:
    """A box (label, x, y, w, h), or None where the category isn't known or its numbers aren't four."""
    try:
        x, y, w, h = map(float, annotation["bbox"])
        return names[annotation["category_id"]], x, y, w, h
    except (KeyError, TypeError, ValueError):
        return None


def _named(ids: list[Any], names: dict[Any, str]) -> set[str]:
    return {names[each] for each in ids if each in names}


def _folders(path: Path) -> list[Path]:
    """Where the image files may lie: beside the file, in `images`, or in `../val2017` for `instances_val2017.json`."""
    beside, above = path.parent, path.parent.parent
    split = path.stem.rpartition("_")[2]
    return [beside, beside / "images", above / split, above / "images", above / "images" / split, above]


def _find(image: dict[str, Any], name: str, folders: list[Path]) -> Path | None:
    """The image's file; names that lead out of the folders are not followed."""
    url = str(image.get("coco_url") or "").rstrip("/").split("/")
    relative = [Path(name)] if image.get("file_name") else []
    relative += [Path(*url[-2:])] if len(url) > 1 else []
    inside = [each for each in relative if not each.is_absolute() and ".." not in each.parts]
    candidates = (folder / each for folder in folders for each in inside)
    return next((path for path in candidates if path.is_file()), None)
