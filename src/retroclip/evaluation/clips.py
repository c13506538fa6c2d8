"""Clips with one label each, from video files or from rows of frames, decoded when they are asked for."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retroclip.errors import BadImageError, RetroclipError, SourceError
from retroclip.evaluation.samples import MAX_REJECTED
from retroclip.pairs.readers import check_columns
from retroclip.pairs.reference import resolve
from retroclip.pairs.walk import walk

VIDEO_SUFFIXES = frozenset([".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"])
AT_A_TIME = 8  # clips decoded at once: in large videos a clip of 16 frames takes 100 MB

Source = Path | list[bytes]


@dataclass(eq=False)
class Clips(Sequence[list[Image.Image]]):
    """Clips with one label each. `sources` are video files, or the encoded frames of rows, in order.

    `clips[i]` decodes at most `frames` frames of a clip, at equal distances; BadImageError where they can't be read.
    Nothing decoded is held, so that a data set takes no more room than its paths or its encoded frames.
    """

    name: str
    split: str | None
    frames: int
    keys: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> list[Image.Image]:  # type: ignore[override]
        from retroclip.pairs import decode_image

        source = self.sources[row]
        return read_video(source, self.frames) if isinstance(source, Path) else [decode_image(each) for each in source]

    def add(self, key: str, source: Source, label: str) -> None:
        """One clip more."""
        self.keys.append(key)
        self.sources.append(source)
        self.labels.append(label)

    def keep(self, rows: Iterable[int]) -> None:
        """Leave out all other clips."""
        kept = list(rows)
        for name in ("keys", "sources", "labels"):
            own = getattr(self, name)
            setattr(self, name, [own[row] for row in kept])

    def readable(self) -> Iterator[dict[int, list[Image.Image]]]:
        """The frames of some clips at a time, decoded by threads, by their positions.

        Those that can't be read are passed over; at the end they are left out and named in `rejected`, so that what is
        left are the clips that were yielded. SourceError, at the end too, where over 10 % were rejected.
        """
        good: list[int] = []
        with ThreadPoolExecutor(min(AT_A_TIME, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
            for start in range(0, len(self), AT_A_TIME):
                rows = range(start, min(start + AT_A_TIME, len(self)))
                found = dict(zip(rows, pool.map(self._attempt, rows), strict=True))
                bad = {row: each for row, each in found.items() if isinstance(each, BadImageError)}
                self.rejected += [f"{self.keys[row]}: {error}" for row, error in bad.items()]
                part = {row: each for row, each in found.items() if not isinstance(each, BadImageError)}
                good += part
                if part:
                    yield part
        self.keep(good)
        if len(self.rejected) > MAX_REJECTED * (len(self) + len(self.rejected)):
            raise SourceError(f"{self.name}: {len(self.rejected)} clips can't be read, such as {self.rejected[0]}")

    def _attempt(self, row: int) -> list[Image.Image] | BadImageError:
        try:
            return self[row]
        except BadImageError as error:
            return error


class Frames(Sequence[bytes | Image.Image]):
    """All frames of readable clips as one sequence: rows' encoded frames as they are, those of files when asked for."""

    def __init__(self, clips: Clips) -> None:
        self._ends = np.cumsum([len(own) for part in clips.readable() for own in part.values()], dtype=np.int64)
        self._sources, self._lock = clips.sources, Lock()
        self._decoded = lru_cache(maxsize=4)(clips.__getitem__)  # neighbours in a sequence are frames of one clip

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, position: int) -> bytes | Image.Image:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(position)
        clip = int(np.searchsorted(self._ends, position, side="right"))
        place = position - int(self._ends[clip])  # from the clip's end
        source = self._sources[clip]
        if isinstance(source, list):
            return source[place]
        with self._lock:
            return self._decoded(clip)[place]


def load_clips(dataset: str | Path, *, where: str | None = None, frames: int = 8) -> Clips:
    """Clips from a folder of class folders with video files, or from rows with `clip`, `frame` and `label` columns.

    `where` sees the columns of rows; of files `key`, the path without suffix, and `label`, the folder's name.
    Of a clip with more than `frames` frames, as many are taken at equal distances. Nothing is decoded here: which clips
    can't be read is known after `Clips.readable`. Raises SourceError: no clip, or PyAV missing for video files.
    """
    if frames < 1:
        raise RetroclipError(f"a clip needs at least one frame, not {frames}")
    text, _, split = str(dataset).partition("#")
    clips = Clips(Path(text).stem, split or None, frames)
    root = Path(text) / split if split else Path(text)
    files = sorted(folder / name for folder, names in walk(root) for name in names)
    files = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if files:
        check_decoder()
        _from_files(clips, root, files, where)
    else:
        _from_rows(clips, dataset, where)
    if not len(clips) and not clips.rejected:
        raise SourceError(f"{dataset} has no labelled clip: rows need `clip`, `frame` and `label`, folders video files")
    return clips


def _from_files(clips: Clips, root: Path, files: Iterable[Path], where: str | None) -> None:
    from retroclip.pairs import parse_where

    predicate = parse_where(where) if where is not None and where.strip() else None
    check_columns(resolve(root)[0], predicate, ["key", "label"])
    for path in files:
        row = {"key": path.relative_to(root).with_suffix("").as_posix(), "label": path.parent.name}
        if predicate is None or predicate(row):
            clips.add(row["key"], path, row["label"])


def _from_rows(clips: Clips, dataset: str | Path, where: str | None) -> None:
    from retroclip.pairs import Rejected, read_pairs

    found: dict[str, list[tuple[int, bytes]]] = {}
    labels: dict[str, str] = {}
    for pair in read_pairs(dataset, where=where):
        if isinstance(pair, Rejected):
            clips.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        if pair.image is None or pair.label is None:
            continue
        key = str(pair.metadata.get("clip", pair.key))
        if labels.setdefault(key, pair.label) != pair.label:
            raise SourceError(f"{dataset}: the frames of clip {key!r} have labels {labels[key]!r} and {pair.label!r}")
        try:
            position = int(pair.metadata.get("frame") or 0)
        except (TypeError, ValueError):
            raise SourceError(f"{dataset}: `frame` of clip {key!r} is no number") from None
        found.setdefault(key, []).append((position, pair.image))
    for key in list(found):
        ordered = [image for _, image in sorted(found.pop(key), key=lambda row: row[0])]
        clips.add(key, [ordered[i] for i in spread(len(ordered), clips.frames)], labels[key])


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Positions of `wanted` frames out of `count`, the middles of equal parts; all of them where there are fewer."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def check_decoder() -> None:
    """SourceError where PyAV isn't installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise SourceError("video files need PyAV: install it with `pip install 'retroclip[video]'`") from None


def read_video(path: Path, frames: int = 8) -> list[Image.Image]:
    """Frames of a video file at equal distances, decoded by PyAV.

    How many there are is told by its packets, which are counted without being decoded; where more or fewer come out of
    the decoder, it is decoded again. Raises BadImageError where it can't be read or has no frame, SourceError where
    PyAV isn't installed.
    """
    check_decoder()
    import av

    try:
        with av.open(str(path)) as container:
            expected = sum(1 for packet in container.demux(video=0) if packet.size)
        count, images = _decoded(path, spread(expected, frames))
        if count != expected:
            _, images = _decoded(path, spread(count, frames))
    except Exception as error:  # PyAV's errors are of many kinds, IndexError (no video stream) among them
        raise BadImageError(f"the video can't be read: {' '.join(str(error).split())[:100]}") from None
    if not images:
        raise BadImageError("the video has no frame")
    return images


def upright(frame: Any) -> Image.Image:
    """A decoded frame turned as its file says that it is shown: telephones film upright pictures sideways."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image


def _decoded(path: Path, positions: NDArray[np.int64]) -> tuple[int, list[Image.Image]]:
    """How many frames a file has, and those at the positions; all are decoded, which shows whether it is whole."""
    import av

    wanted, count, images = set(positions.tolist()), 0, []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if count in wanted:
                images.append(upright(frame))
            count += 1
    return count, images
