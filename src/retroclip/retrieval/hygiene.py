"""Which of a memory's own pairs to leave out: near copies of each other, mismatched pairs, blocked ones."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.memory.progress import steps
from retroclip.pairs import ALIKE, mirrored, thumbnail
from retroclip.retrieval.filters import clip_scores, well_matched

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.memory.blocklist import Blocklist

BATCH, FIRST_K = 1024, 8
Ids = NDArray[np.int64]


def near_copies(memory: "Memory", threshold: float = 0.95, progress: bool = False) -> Ids:
    """Ids of the pairs whose image nearly is that of a pair before them that stays, ascending.

    As `filters.distinct` (cosine above the threshold to one kept before), found by searching, so that an index helps;
    and where images are stored, the thumbnails must be alike, too: a small model puts other photos as near.
    """
    lower = _near_before(memory, threshold, progress)
    thumbnails: dict[int, np.ndarray | None] = {}

    def shown(row: int) -> np.ndarray | None:
        if row not in thumbnails:
            image = memory.take([row], ["image"])["image"][0].as_py()
            thumbnails[row] = None if image is None else thumbnail(image)
        return thumbnails[row]

    dropped: set[int] = set()
    for row in sorted(lower):
        own = shown(row)
        for other in sorted(lower[row] - dropped):
            seen = shown(other)
            if own is None or seen is None or max(own @ seen, own @ mirrored(seen)) > ALIKE:
                dropped.add(row)
                break
    return np.array(sorted(dropped), np.int64)


def _near_before(memory: "Memory", threshold: float, progress: bool) -> dict[int, set[int]]:
    """For each pair that has one, the pairs of smaller ids with a cosine above the threshold."""
    ids, found = memory.ids(), dict[int, set[int]]()
    with steps("near copies", "pairs", len(ids), progress) as done:
        for start in range(0, len(ids), BATCH):
            pending, k = ids[start : start + BATCH], FIRST_K
            while len(pending):
                width = min(k, len(ids))
                hits = memory.search(memory.embeddings(pending), by="image", k=width)
                near = (hits.scores > threshold) & (hits.ids >= 0)
                whole = ~near[:, -1] if width < len(ids) else np.ones(len(pending), bool)
                for row, column in np.argwhere(near & whole[:, None] & (hits.ids < pending[:, None])):
                    found.setdefault(int(pending[row]), set()).add(int(hits.ids[row, column]))
                pending, k = pending[~whole], 4 * k
            done(min(start + BATCH, len(ids)))
    return found


def mismatched(memory: "Memory", minimum: float | str) -> Ids:
    """Ids of the pairs whose image and text have a cosine below `minimum`, or of the lowest 6.5 % for "quantile"."""
    ids = memory.ids()
    scores = [
        clip_scores(memory.embeddings(part, of="image"), memory.embeddings(part, of="text"))
        for part in np.array_split(ids, max(1, len(ids) // 8192))
    ]
    return ids[~well_matched(torch.cat(scores), minimum).numpy()]


def blocked(memory: "Memory", blocklist: "Blocklist", progress: bool = False) -> Ids:
    """Ids of the pairs that are on a blocklist."""
    ids = memory.ids()
    found = [np.zeros(0, np.int64)]
    with steps("blocklist", "pairs", len(ids), progress) as done:
        for start in range(0, len(ids), 256):
            part = ids[start : start + 256]
            found.append(part[blocklist.blocked_rows(memory.take(part, blocklist.columns))])
            done(start + len(part))
    return np.concatenate(found)
