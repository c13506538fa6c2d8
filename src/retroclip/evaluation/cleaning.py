"""Unwanted pairs taken out of a memory: near copies, those of evaluation sets, mismatched and blocked ones."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import SourceError
from retroclip.evaluation.image_text import encode_readable
from retroclip.evaluation.leakage import near_duplicates
from retroclip.memory.predicate import rows_with
from retroclip.memory.progress import expected_pairs, reporter
from retroclip.pairs import Pair, read_pairs
from retroclip.retrieval.hygiene import blocked, mismatched, near_copies

if TYPE_CHECKING:
    from retroclip.memory import Blocklist, Memory

BATCH = 2048
"""Images of an evaluation set compared with all rows at a time: each time every row is read."""


def clean_memory(
    memory: "Memory",
    *,
    near: float | None = None,
    near_to: Sequence[str] = (),
    min_clip_score: float | str | None = None,
    blocklist: "Blocklist | None" = None,
    purge: bool = False,
    dry_run: bool = False,
    encoder: Any = None,
    progress: bool = False,
) -> dict[str, int]:
    """Delete, or `purge`, the pairs that any of the given filters names; returns how many each named, and all.

    near: near copies of a pair that stays, above this cosine and alike. near_to: sources of evaluation images, of
    which the memory shall hold no near copy; they are embedded by `encoder`, the memory's own, loaded when None.
    min_clip_score: as in `retrieve`. blocklist: also kept for later additions. A pair that another filter takes out
    still counts as the one that its copies are copies of.
    """
    found: dict[str, NDArray[np.int64]] = {}
    if blocklist is not None:
        found["blocked"] = blocked(memory, blocklist, progress)
    if min_clip_score is not None:
        found["mismatched"] = mismatched(memory, min_clip_score)
    for dataset in near_to:
        found[f"near_to {dataset}"] = _near_to(memory, dataset, encoder, progress)
    if near is not None:
        found["near_copies"] = near_copies(memory, near, progress)
    every = np.unique(np.concatenate(list(found.values()))) if found else np.zeros(0, np.int64)
    if not dry_run:
        if blocklist is not None:
            memory.block(blocklist)
        if len(every):
            where = rows_with(every)
            _ = memory.purge(where) if purge else memory.delete(where)
    return {**{name: len(ids) for name, ids in found.items()}, "deleted" if not dry_run else "unwanted": len(every)}


def _near_to(memory: "Memory", dataset: str, encoder: Any, progress: bool) -> NDArray[np.int64]:
    if encoder is None:
        from retroclip.encoders import load

        encoder = load(memory.model_reference)
    memory.check_encoder(encoder)
    images = (item.image for item in read_pairs(dataset) if isinstance(item, Pair) and item.image is not None)
    found, seen = [], 0
    with reporter(lambda: expected_pairs(dataset), progress, None) as report:
        while batch := list(islice(images, BATCH)):
            embeddings, bad = encode_readable(encoder, batch)
            readable = [image for row, image in enumerate(batch) if row not in bad]
            found.append(near_duplicates(memory, embeddings, pictures=readable))
            seen += len(batch)
            if report:
                report(seen, 0)
    if not found:
        raise SourceError(f"{dataset} has no image")
    return np.unique(np.concatenate(found))
