"""WebDataset tar shards, streamed: nothing is ever written to disk."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retroclip.errors import SourceError
from retroclip.pairs.annotations import ANNOTATION_SUFFIXES, read_annotation
from retroclip.pairs.image import IMAGE_SUFFIXES
from retroclip.pairs.pair import Pair, Rejected
from retroclip.pairs.readers import register_reader, row_of
from retroclip.pairs.reference import SourceRef
from retroclip.pairs.where import Predicate

MAX_MEMBER = 512 * 2**20
"""Bytes; a larger member is not read into memory."""

_BLOCK = 512
_BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)


@dataclass(slots=True)
class _Sample:
    """Consecutive members of one key, by suffix; `dotted`: that of an image that has a dot in it, and isn't read."""

    key: str
    files: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    dotted: str = ""


@register_reader
class WebdatasetReader:
    """Samples of a shard: consecutive members that share their path up to the base name's first dot."""

    kind = "webdataset"

    def accepts(self, path: Path) -> bool:
        return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))

    def open(self, ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
        if ref.split is not None:
            raise SourceError(f"{ref.path}: tar shards have no splits; name the shards of {ref.split!r} instead")
        try:
            tarfile.open(ref.path, "r|*").close()
        except _BROKEN as error:
            raise SourceError(f"{ref.path} can't be read as a tar: {error}") from None
        return _read(ref, where)

    def count(self, ref: SourceRef) -> int | None:
        return None


def _read(ref: SourceRef, where: Predicate | None) -> Iterator[Pair | Rejected]:
    whole = 0
    try:
        for sample in _samples(ref.path):
            whole += 1
            pair = _pair(sample, ref.name)
            if isinstance(pair, Rejected) or where is None or where(row_of(pair)):
                yield pair
    except _BROKEN as error:
        reason = f"the shard is truncated or broken after {whole} samples, the rest is lost: {error}"
        yield Rejected(f"{ref.name}#{whole}", ref.name, reason)


def _samples(path: Path) -> Iterator[_Sample]:
    """Group members by key, without those that are no part of a pair.

    The sample in hand when the shard breaks is not whole and is not given out.
    """
    sample: _Sample | None = None
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if not member.isfile() or not stem or name.startswith(".") or not _is_part(suffix.lower()):
                continue
            key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            _keep(sample, suffix.lower(), tar, member)
        _check_end(path, tar.offset)
    if sample is not None:
        yield sample


def _is_part(suffix: str) -> bool:
    """Whether a member of this suffix belongs to a pair, or to one whose name has dots that it may not have."""
    return suffix in (*ANNOTATION_SUFFIXES, "npy") or f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES


def _keep(sample: _Sample, suffix: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if "." in suffix and suffix != "mask.png":
        sample.dotted = suffix
        return
    if member.size > MAX_MEMBER:
        sample.problem = f".{suffix} has {member.size:,} bytes, more than {MAX_MEMBER:,}"
        return
    content = tar.extractfile(member)
    if content is not None:
        sample.files[suffix] = content.read()


def _check_end(path: Path, offset: int) -> None:
    """tarfile takes a cut inside a header or a skipped member for the end: an uncut file is whole blocks long."""
    size = path.stat().st_size
    if path.suffix.lower() == ".tar" and (size % _BLOCK or offset > size):
        raise tarfile.ReadError("unexpected end of data")


def _pair(sample: _Sample, source: str) -> Pair | Rejected:
    images = [data for suffix, data in sample.files.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if sample.problem:
        return Rejected(sample.key, source, sample.problem)
    if not images:
        reason = "no image among the sample's members, which must follow each other (pack with tar --sort=name)"
        if sample.dotted:
            reason = (
                f"the name has dots: a sample's name ends at its first one, and .{sample.dotted} is no image's suffix"
            )
        return Rejected(sample.key, source, reason)
    if not images[0]:
        return Rejected(sample.key, source, "empty image file (0 bytes)")
    annotation = read_annotation(sample.files)
    try:
        labels = _set_positions(sample.files["npy"]) if "npy" in sample.files else None
    except (ValueError, EOFError, OSError):
        return Rejected(sample.key, source, ".npy holds no vector of class marks")
    # What img2dataset and `memory export` write there; the sample's name may not hold every key.
    key, named = (annotation.metadata.pop(name, None) for name in ("key", "source"))
    return Pair(
        key=key if isinstance(key, str) and key else sample.key,
        image=images[0],
        source=named if isinstance(named, str) and named else source,
        mask=sample.files.get("mask.png"),
        labels=labels,
        **annotation.fields(),
    )


def _set_positions(data: bytes) -> tuple[str, ...]:
    """Positions of the ones in a stored vector of 0 and 1, one a class, as text; ValueError for anything else."""
    marks = np.load(io.BytesIO(data), allow_pickle=False)
    if marks.ndim != 1 or not np.isin(marks, (0, 1)).all():
        raise ValueError("not a vector of 0 and 1")
    return tuple(str(position) for position in np.flatnonzero(marks))
