"""Texts that lie beside an image: a .txt with a caption a line, a .json, a class (.cls); shared by folders and tars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from retroclip.pairs.pair import clean_captions, clean_label

CAPTION_SUFFIXES = ("txt", "caption", "text")


@dataclass(slots=True)
class Annotation:
    """What the files beside one image say of it. `notes` tell what was found but could not be used."""

    captions: list[str] = field(default_factory=list)
    label: str | None = None
    license: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Arguments for a Pair."""
        notes = {"note": "; ".join(self.notes)} if self.notes else {}
        return {
            "captions": clean_captions(self.captions),
            "label": self.label,
            "license": self.license,
            "metadata": self.metadata | notes,
            "faults": tuple(self.notes),
        }


def read_annotation(files: Mapping[str, bytes]) -> Annotation:
    """Read the files beside one image, given by suffix (lower case, no dot), in a set order."""
    annotation = Annotation()
    for suffix, read in _READ.items():
        if suffix in files:
            _read_one(annotation, suffix, files[suffix], read)
    return annotation


def _read_one(annotation: Annotation, suffix: str, data: bytes, read: Callable[[Annotation, str], None]) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        annotation.notes.append(f".{suffix} is not UTF-8")
        return
    if not text.strip():
        annotation.notes.append(f".{suffix} is empty")
        return
    try:
        read(annotation, text)
    except (ValueError, RecursionError):
        annotation.notes.append(f".{suffix} is not valid JSON")


def _read_captions(annotation: Annotation, text: str) -> None:
    annotation.captions.extend(text.splitlines())


def _read_class(annotation: Annotation, text: str) -> None:
    annotation.label = clean_label(text)


def _read_json(annotation: Annotation, text: str) -> None:
    """`caption` and `captions` in front of those of the .txt, `label`, `license`; the rest is metadata."""
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    captions = [record.pop("caption", None), *as_list(record.pop("captions", None))]
    annotation.captions[:0] = [str(caption) for caption in captions if caption is not None]
    label = clean_label(record.pop("label", None))
    annotation.label = label if label is not None else annotation.label
    annotation.license = clean_label(record.pop("license", None))
    annotation.metadata.update(record)


def as_list(value: Any) -> list[Any]:
    """None → nothing, a list → its values, anything else → itself."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


_READ: dict[str, Callable[[Annotation, str], None]] = {
    **dict.fromkeys(CAPTION_SUFFIXES, _read_captions),
    "cls": _read_class,
    "json": _read_json,
}

ANNOTATION_SUFFIXES = frozenset(_READ)
