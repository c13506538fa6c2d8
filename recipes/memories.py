"""The memories of the results page, made from the development data: pairs that know the task, and pairs that don't.

Deterministic: what is drawn depends on the keys and on `SEED` alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from retroclip.pairs import Pair, read_pairs
from retroclip.retrieval.select import ClassNames
from retroclip.tasks import Task

SEED = 0
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


def memory_pairs(data: Path, task: Task, name: str, condition: str) -> list[Pair]:
    """The pairs of a condition for the task whose data set is `name`.

    in-domain: the task's `train` pairs, captions naming the class, and as many unrelated ones (`-4x`: four times as
    many); half-wrong: the same with every second of the task's captions replaced by an unrelated pair's; general: no
    pair of the task's data set at all, whatever the captions of the others name.
    """
    if condition == "general":
        return [pair for other in GENERAL if other != name for pair in pairs_of(data, other)]
    own = list(pairs_of(data, name))
    if condition == "half-wrong":
        others = unrelated(data, task, 2 * len(own))
        wrong = np.random.default_rng(SEED).permutation(len(own))[: len(own) // 2]
        for row, other in zip(wrong, others[len(own) :], strict=False):
            own[row] = replace(own[row], captions=other.captions[:1])
        return own + others[: len(own)]
    return own + unrelated(data, task, len(own) * (4 if condition == "in-domain-4x" else 1))
