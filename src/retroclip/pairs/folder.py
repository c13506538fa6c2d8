"""Folders: images with same-named .txt or .json files, or class sub-folders; nested as deep as one likes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from retroclip.errors import SourceError
from retroclip.pairs.annotations import ANNOTATION_SUFFIXES, read_annotation
from retroclip.pairs.embeddings import is_embedding_folder
from retroclip.pairs.image import IMAGE_SUFFIXES
from retroclip.pairs.pair import Pair, Rejected, clean_label, printable
from retroclip.pairs.readers import no_such_split, register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.shards import count_shards, is_tar, open_shards, shards_in
from retroclip.pairs.walk import walk
from retroclip.pairs.where import Predicate

logger = logging.getLogger(__name__)

_SPLIT_NAMES = frozenset(["train", "training", "val", "valid", "validation", "test", "testing", "extra", "images"])


@register_reader
class FolderReader:
    """Every image below a folder, in the order of its path.

    The name of the folder an image lies in is its label, unless that folder is the source itself, is named like a
    split, or holds annotation files: then it is a collection and not a class. Hidden files and folders are ignored.
    A folder without images may hold tars and parquet files (`shards_in`).
    """

    kind = "folder"

    def accepts(self, path: Path) -> bool:
        return path.is_dir()

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        root = _root(ref)
        if next(_images(root), None) is None:
            if (root / "pairs.lance").is_dir():
                raise SourceError(f"{root} is a memory: to read its pairs, give its table, {root / 'pairs.lance'}")
            if shards := shards_in(root, ref.text):
                return open_shards(shards, where)
            if inner := next((folder for folder, _ in walk(root) if is_embedding_folder(folder)), None):
                raise SourceError(f"no image found in {root}, but embeddings in {inner}: name that folder")
            raise SourceError(f"no image found in {root}; images are {', '.join(sorted(IMAGE_SUFFIXES))} files")
        return _read(root, ref, where)

    def count(self, ref: SourceRef) -> int | None:
        root = _root(ref)
        return sum(1 for _ in _images(root)) or count_shards(shards_in(root, ref.text))


def _root(ref: SourceRef) -> Path:
    if ref.split is None:
        return ref.path
    if not (ref.path / ref.split).is_dir():
        raise no_such_split(ref, {entry.name for entry in os.scandir(ref.path) if entry.is_dir()})
    return ref.path / ref.split


def _read(root: Path, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
    unread: list[OSError] = []
    for image, beside, is_class in _images(root, unread):
        pair = _pair(root, ref.name, image, beside, is_class)
        if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
            yield pair
    for error in unread:
        key = printable(os.path.relpath(error.filename, root))
        yield Rejected(key, ref.name, f"can't read the folder: {error.strerror or error}")
    if tars := [name for name in next(walk(root))[1] if is_tar(name)]:
        logger.warning(
            "%s holds images, so %s beside them isn't read: name tars as sources", root, " and ".join(tars[:2])
        )


def _pair(root: Path, name: str, image: Path, beside: dict[str, Path], is_class: bool) -> Pair | Rejected:
    key = printable(image.relative_to(root).with_suffix("").as_posix())
    try:
        data = image.read_bytes()
        annotation = read_annotation({suffix: path.read_bytes() for suffix, path in beside.items()})
    except OSError as error:
        return Rejected(key, name, f"can't read {error.filename or image.name}: {error.strerror or error}")
    if not data:
        return Rejected(key, name, "empty image file (0 bytes)")
    if annotation.label is None and is_class:
        annotation.label = clean_label(printable(image.parent.name))
    return Pair(key=key, image=data, source=name, **annotation.fields())


def _images(root: Path, unread: list[OSError] | None = None) -> Iterator[tuple[Path, dict[str, Path], bool]]:
    """Each image with the annotation files beside it, and whether its folder is a class; one folder at a time.

    unread: gets the errors of folders that can't be read.
    """
    for folder, names in walk(root, unread):
        beside: dict[str, dict[str, Path]] = {}
        images = []
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if f".{suffix.lower()}" in IMAGE_SUFFIXES and dot:
                images.append((stem, folder / name))
            elif suffix.lower() in ANNOTATION_SUFFIXES and dot:
                beside.setdefault(stem, {})[suffix.lower()] = folder / name
        annotated = any(stem in beside for stem, _ in images)
        is_class = folder != root and folder.name.lower() not in _SPLIT_NAMES and not annotated
        for stem, path in images:
            yield path, beside.get(stem, {}), is_class
