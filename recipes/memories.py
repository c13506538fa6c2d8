"""The memories of the results page, made from the development data: pairs that know the task, and pairs that don't.

Deterministic: what is drawn depends on the keys and on `SEED` alone. Each set is embedded once a model (`Sources`), and
the memory of any task and condition is made from that.
"""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retroclip.encoders import Encoder
from retroclip.memory import Memory
from retroclip.pairs import Pair, read_pairs
from retroclip.retrieval.select import ClassNames
from retroclip.tasks import Task

SEED = 0
TASKS = {
    "caltech101": "caltech101",
    "intel-scenes": "intel_scenes",
    "gtsrb": "gtsrb_signs",
    "flower-photos": "flower_photos",
}
"""Tasks of different kinds (objects, scenes, signs, flowers), each with the name of its data set."""
CONDITIONS = ("in-domain", "in-domain-4x", "half-wrong", "general")
CAPTIONS = (
    "a photo of a {}",
    "{}",
    "a picture with a {} in it",
    "one {} among the many pictures we took",
    "look at this {}!",
    "a {} in the middle of the picture",
    "snapshot: {}",
    "this one shows a {}",
)
GENERAL = ("flickr8k", "tiny_imagenet", "imagenet1k_samples", "flower_photos", "intel_scenes")
UNRELATED = ("flickr8k", "tiny_imagenet")


def captioned(pair: Pair) -> Pair:
    """A labelled image as a pair whose caption names its class, in one of a few ways."""
    if pair.captions or pair.label is None:
        return pair
    spoken = CAPTIONS[zlib.crc32(pair.key.encode()) % len(CAPTIONS)]
    return replace(pair, captions=(spoken.format(pair.label),))


def pairs_of(data: Path, name: str) -> Iterator[Pair]:
    """The `train` split of a set as captioned pairs."""
    for pair in read_pairs(data / f"{name}.parquet#train"):
        if isinstance(pair, Pair):
            yield captioned(pair)


def unrelated(data: Path, task: Task, count: int) -> list[Pair]:
    """`count` pairs none of whose captions names a class of the task, drawn without replacement."""
    names = ClassNames(task)
    pool = [pair for name in UNRELATED for pair in pairs_of(data, name) if not names.found_in(pair.captions)]
    if len(pool) < count:
        raise ValueError(f"only {len(pool)} pairs name no class of {task.name}, {count} are asked for")
    return [pool[row] for row in np.random.default_rng(SEED).permutation(len(pool))[:count]]


def source_names(name: str, condition: str) -> list[str]:
    """The sets that a condition of the task whose data set is `name` draws from."""
    if condition == "general":
        return [other for other in GENERAL if other != name]
    return list(dict.fromkeys([name, *UNRELATED]))


def memory_pairs(data: Path, task: Task, name: str, condition: str) -> list[Pair]:
    """The pairs of a condition for the task whose data set is `name`.

    in-domain: the task's `train` pairs, captions naming the class, and as many unrelated ones (`-4x`: four times as
    many); half-wrong: the same with every second of the task's captions replaced by an unrelated pair's; general: no
    pair of the task's data set at all, whatever the captions of the others name.
    """
    if condition == "general":
        return [pair for other in source_names(name, condition) for pair in pairs_of(data, other)]
    own = list(pairs_of(data, name))
    if condition == "half-wrong":
        others = unrelated(data, task, 2 * len(own))
        wrong = np.random.default_rng(SEED).permutation(len(own))[: len(own) // 2]
        for row, other in zip(wrong, others[len(own) :], strict=False):
            own[row] = replace(own[row], captions=other.captions[:1])
        return own + others[: len(own)]
    return own + unrelated(data, task, len(own) * (4 if condition == "in-domain-4x" else 1))


class Source:
    """The captioned `train` pairs of one set and the memory that holds their embeddings."""

    def __init__(self, pairs: list[Pair], memory: Memory) -> None:
        self.pairs, self.memory = pairs, memory

    @cached_property
    def rows(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Key → row id and captions, of all pairs that could be read."""
        columns = self.memory.take(self.memory.ids(), ["key", "captions"])
        found = zip(columns["key"].to_pylist(), columns["captions"].to_pylist(), strict=True)
        return {key: (int(row), tuple(own)) for row, (key, own) in zip(self.memory.ids(), found, strict=True)}


class Sources:
    """The sets of the conditions, each embedded once by one model, in memories under `work`.

    A killed run goes on within the set that it was embedding. `seconds` is what embedding and putting together took.
    """

    def __init__(self, data: Path, encoder: Encoder, work: Path) -> None:
        self.data, self.encoder = data, encoder
        self.work = work / encoder.fingerprint[:8]
        self.seconds = {"embedding": 0.0, "putting together": 0.0}
        self._sources: dict[str, Source] = {}

    def of(self, name: str) -> Source:
        """One set, embedded where it isn't yet."""
        if name not in self._sources:
            start, place = time.perf_counter(), self.work / "sources" / name
            pairs = list(pairs_of(self.data, name))
            made = Memory.open(place) if place.exists() else Memory.create(place, self.encoder, [pairs], index=False)
            self._sources[name] = Source(pairs, made)
            self.seconds["embedding"] += time.perf_counter() - start
        return self._sources[name]

    def memory(self, task: Task, condition: str) -> Memory:
        """The memory of a task (one of `TASKS`) under a condition: `memory_pairs`, nothing embedded twice."""
        name = TASKS[task.name]
        place = self.work / f"{task.name}-{condition}"
        if place.exists():
            return Memory.open(place)
        sources = [self.of(own) for own in source_names(name, condition)]
        start, folder = time.perf_counter(), place.with_name(place.name + ".embeddings")
        self._write(memory_pairs(self.data, task, name, condition), sources, folder)
        made = Memory.create(place, self.encoder, [folder], index=False)
        shutil.rmtree(folder)
        self.seconds["putting together"] += time.perf_counter() - start
        return made

    def _write(self, pairs: list[Pair], sources: list[Source], folder: Path) -> None:
        """The pairs as a folder of embeddings, which a memory imports; those that no source could read are left out."""
        found = {key: (number, *row) for number, source in enumerate(sources) for key, row in source.rows.items()}
        if len(found) < sum(len(source.rows) for source in sources):
            raise ValueError("two sets share a key: their embeddings would be mixed up")
        pairs = [pair for pair in pairs if pair.key in found]
        images, texts = (np.zeros((len(pairs), self.encoder.dim), np.float16) for _ in range(2))
        for number, source in enumerate(sources):
            places = [place for place, pair in enumerate(pairs) if found[pair.key][0] == number]
            ids = [found[pairs[place].key][1] for place in places]
            images[places] = source.memory.embeddings(ids, of="image").numpy()
            texts[places] = source.memory.embeddings(ids, of="text").numpy()
        # A pair that was given another's caption has that one's embedding.
        changed = [place for place, pair in enumerate(pairs) if pair.captions != found[pair.key][2]]
        if changed:
            texts[changed] = self.encoder.encode_texts([pairs[place].captions[0] for place in changed]).numpy()
        columns = {name: [getattr(pair, name) for pair in pairs] for name in ("key", "image", "source", "license")}
        columns |= {"captions": [list(pair.captions) for pair in pairs]}
        shutil.rmtree(folder, ignore_errors=True)
        for kind, values in (("img_emb", images), ("text_emb", texts)):
            (folder / kind).mkdir(parents=True)
            np.save(folder / kind / f"{kind}_0.npy", values)
        (folder / "metadata").mkdir()
        pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
