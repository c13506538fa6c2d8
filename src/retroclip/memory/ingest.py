"""From sources to encoded shards: read, decode in threads while the encoder works, encode, in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch

from retroclip.encoders.images import Preprocessing, batches_ahead
from retroclip.errors import MemoryStoreError
from retroclip.memory.pictures import Images, kept_image
from retroclip.memory.schema import EncodedPair
from retroclip.pairs import Pair, Rejected, decode_image

SHARD_PAIRS = 2048
SHARD_BYTES = 256 * 2**20
KEPT = "the image is kept without it"
NO_CAPTION = f"empty caption; {KEPT}"


@dataclass(frozen=True, slots=True)
class Ingest:
    """How pairs become rows. `labels_as_captions`: a labelled pair without caption gets "a photo of a {label}.".

    images: what is kept of an image. on_batch: called with the numbers of pairs read and rejected so far. ray: address
    of the Ray that encodes, "local" for one that is started here; workers: how many, by default as many as fit.
    """

    batch_size: int = 64
    labels_as_captions: bool = False
    shard_pairs: int = SHARD_PAIRS
    images: Images = "store"
    on_batch: Callable[[int, int], None] | None = None
    ray: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.images not in get_args(Images):
            raise MemoryStoreError(f"images is {self.images!r}: choose one of {', '.join(get_args(Images))}")


@dataclass(slots=True)
class Shard:
    """What came of a run of consecutive pairs of the stream: the rows to commit together, and what was left out.

    `bad` counts pairs that gave no row; `rejected` also holds captions that were dropped. `duplicates` counts pairs
    whose key was there before them.
    """

    rows: list[EncodedPair] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    read: int = 0
    bad: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class _Item:
    pair: Pair
    image: torch.Tensor | Exception  # of `Preprocessing.one`
    size: int = 0  # of the image as it was read: where shards end depends on it


def encoded_shards(
    items: Iterable[Pair | Rejected], encoder: Any, options: Ingest, *, committed: Container[str], resume: bool
) -> Iterator[Shard]:
    """Encode the stream shard by shard; where shards end depends on the stream alone, so a repeated run cuts it alike.

    committed: keys that the store held before. Their pairs are passed over without decoding; with `resume` they count
    as done by the interrupted run, else as duplicates.
    """
    cutter = _Cutter(encoder, options, committed, resume)
    for item in _decoded(items, cutter, options):
        cutter.feed(item)
        if cutter.shard.read >= options.shard_pairs or cutter.bytes >= SHARD_BYTES:
            yield cutter.cut()
    if cutter.shard.read:
        yield cutter.cut()


def blocks(items: Iterable[Pair | Rejected], options: Ingest) -> Iterator[list[Pair | Rejected]]:
    """The stream in the runs that become shards."""
    block: list[Pair | Rejected] = []
    size = 0
    for item in items:
        block.append(item)
        size += len(item.image or b"") if isinstance(item, Pair) else 0
        if len(block) >= options.shard_pairs or size >= SHARD_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def encode_block(
    block: Iterable[Pair | Rejected],
    encoder: Any,
    options: Ingest,
    *,
    committed: Container[str],
    seen: set[str],
    resume: bool,
) -> tuple[Shard, set[str]]:
    """One of `blocks` encoded by itself, as `encoded_shards` would after the keys `seen`; these and its own."""
    cutter = _Cutter(encoder, options, committed, resume, seen)
    for item in _decoded(block, cutter, options):
        cutter.feed(item)
    return cutter.cut(), cutter.seen


class _Cutter:
    """Collects the shard that is under way, encoding its images batch by batch."""

    def __init__(
        self, encoder: Any, options: Ingest, committed: Container[str], resume: bool, seen: set[str] | None = None
    ) -> None:
        self.encoder, self.options = encoder, options
        self.preprocessing = Preprocessing(encoder.preprocess)
        self.committed, self.resume = committed, resume
        self.seen: set[str] = set() if seen is None else seen
        self.read = self.bad = 0
        self._restart()

    def _restart(self) -> None:
        self.shard = Shard()
        self.bytes = 0
        self._rows: list[EncodedPair] = []
        self._batch: list[_Item] = []

    def is_new(self, pair: Pair) -> bool:
        return pair.key not in self.committed and pair.key not in self.seen

    def feed(self, item: _Item | Rejected) -> None:
        self.shard.read += 1
        if isinstance(item, Rejected):
            self._reject(item)
        else:
            self.bytes += item.size
            self._sort_in(item)
        if len(self._batch) >= self.options.batch_size:
            self._encode_batch()
        if self.shard.read % self.options.batch_size == 0:
            self._tell()

    def _sort_in(self, item: _Item) -> None:
        key = item.pair.key
        if key in self.seen or (key in self.committed and not self.resume):
            self.shard.duplicates += 1
        elif key in self.committed:
            self.seen.add(key)
        elif isinstance(item.image, Exception):
            self._reject(_rejected(item.pair, item.image))
        else:
            self.seen.add(key)
            self._batch.append(item)

    def _reject(self, item: Rejected) -> None:
        self.shard.rejected.append(item)
        self.shard.bad += 1

    def _encode_batch(self) -> None:
        images = self.preprocessing.batch([item.image for item in self._batch if isinstance(item.image, torch.Tensor)])
        embeddings = self.encoder.encode_images(images, batch_size=len(images)).float().cpu().numpy()
        pairs = [item.pair for item in self._batch]
        self._rows += [EncodedPair(pair, row, None) for pair, row in zip(pairs, embeddings, strict=True)]
        self._batch = []

    def cut(self) -> Shard:
        """The shard, its texts encoded; the next one begins."""
        if self._batch:
            self._encode_batch()
        shard = _finished(self.shard, self._rows, self.encoder, self.options)
        self._tell()
        self.read, self.bad = self.read + shard.read, self.bad + shard.bad
        self._restart()
        return shard

    def _tell(self) -> None:
        if self.options.on_batch:
            self.options.on_batch(self.read + self.shard.read, self.bad + self.shard.bad)


def _decoded(items: Iterable[Pair | Rejected], cutter: "_Cutter", options: Ingest) -> Iterator[_Item | Rejected]:
    """The stream with its new images decoded and preprocessed by threads, as many ahead as `batches_ahead` says.

    On a CPU that is none: a batch is decoded whole before it is encoded. Side by side, the encoder's threads would
    spin while they wait for one whose core decodes.
    """
    device = getattr(cutter.encoder, "device", torch.device("cpu"))
    ahead = batches_ahead(device) * options.batch_size

    def prepare(pair: Pair) -> _Item:
        try:
            if pair.image is None:
                raise ValueError("no image")
            decoded = decode_image(pair.image)
            kept = replace(pair, image=kept_image(pair.image, options.images, decoded))
            return _Item(kept, cutter.preprocessing.one(decoded), len(pair.image))
        except Exception as error:  # whatever a broken file makes a decoder raise, the pair is named and skipped
            return _Item(pair, error, len(pair.image or b""))

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    waiting: deque[_Item | Rejected | Future[_Item]] = deque()
    skipped = ValueError("not decoded")
    try:
        for item in items:
            if isinstance(item, Rejected):
                waiting.append(item)
            elif cutter.is_new(item):
                waiting.append(pool.submit(prepare, item))
            else:
                waiting.append(_Item(item, skipped, len(item.image or b"")))
            if len(waiting) >= ahead + options.batch_size:
                yield from _results(waiting, options.batch_size)
        yield from _results(waiting, len(waiting))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(waiting: deque[_Item | Rejected | Future[_Item]], count: int) -> list[_Item | Rejected]:
    """The first `count` of what waits, once all of them are decoded."""
    first = [waiting.popleft() for _ in range(count)]
    return [item.result() if isinstance(item, Future) else item for item in first]


def is_kept(item: Rejected) -> bool:
    """Whether only a caption, or another file beside an image, was rejected and not the pair."""
    return item.reason.endswith(KEPT)


def _rejected(pair: Pair, reason: Exception | str) -> Rejected:
    lines = str(reason).splitlines()
    return Rejected(key=pair.key, source=pair.source, reason=lines[0] if lines else type(reason).__name__)


def _finished(shard: Shard, rows: list[EncodedPair], encoder: Any, options: Ingest) -> Shard:
    """The shard with its captions cleaned and encoded, without rows whose embeddings are not finite."""
    rows = [replace(row, pair=_cleaned(row.pair, options, shard)) for row in rows]
    captions = [caption for row in rows for caption in row.pair.captions]
    embeddings = encoder.encode_texts(captions).float().cpu().numpy() if captions else np.zeros((0, 1), np.float32)
    start = 0
    for row in rows:
        end = start + len(row.pair.captions)
        encoded = replace(row, text=_mean_direction(embeddings[start:end]) if end > start else None)
        start = end
        if not np.isfinite(encoded.image).all() or (encoded.text is not None and not np.isfinite(encoded.text).all()):
            shard.rejected.append(_rejected(row.pair, "the encoder gave an embedding that is not finite"))
            shard.bad += 1
        else:
            shard.rows.append(encoded)
    return shard


def _cleaned(pair: Pair, options: Ingest, shard: Shard) -> Pair:
    captions = _said(pair)
    if len(captions) < len(pair.captions):
        shard.rejected.append(_rejected(pair, NO_CAPTION))
    shard.rejected += [_rejected(pair, f"{fault}; {KEPT}") for fault in pair.faults]
    return replace(pair, captions=stored_captions(pair, options.labels_as_captions))


def stored_captions(pair: Pair, labels_as_captions: bool) -> tuple[str, ...]:
    """The captions that a memory keeps of a pair."""
    captions = _said(pair)
    if not captions and labels_as_captions and pair.label:
        return (f"a photo of a {pair.label.replace('_', ' ')}.",)
    return captions


def _said(pair: Pair) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in pair.captions if caption and caption.strip())


def _mean_direction(embeddings: np.ndarray) -> np.ndarray | None:
    """Normalised mean of a pair's caption embeddings (c, d) → (d,); None when they cancel out."""
    mean = embeddings.mean(axis=0)
    norm = np.linalg.norm(mean)
    return None if norm < 1e-6 else (mean / norm).astype(np.float32)
