"""Neighbours of samples that may be in the memory themselves: what RECO and RA-CLIP train with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from retroclip.memory import Memory

NEAR = 0.95
"""Images with a larger cosine are taken for the same picture (REACT, RECO)."""
CANDIDATES = 2**21  # ids looked at together, to bound the memory where near-duplicates are many


@dataclass(frozen=True, slots=True)
class Neighbours:
    """ids (n, k) int64, -1 where there are fewer; mask (n, k) bool, true where there is one; scores (n, k) float32."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]


def neighbours(
    memory: "Memory",
    queries: torch.Tensor,
    *,
    by: Literal["image", "text"] = "image",
    k: int = 10,
    where: str | None = None,
    exclude_self_ids: Sequence[Any] | npt.NDArray[np.int64] | None = None,
    near_threshold: float | None = NEAR,
    images: torch.Tensor | None = None,
) -> Neighbours:
    """The k nearest rows of each query (n, d) without the sample itself and its near-duplicates (RECO, section 4).

    exclude_self_ids: for each query its own row id, or a list of ids. Near-duplicates are rows whose image has a cosine
    above `near_threshold` with the sample's image: the query itself when searching by image, else `images` (n, d);
    without `images` a search by text excludes none, since pairs of one class rightly share their text.
    """
    banned = _id_lists(exclude_self_ids, len(queries))
    pictures = images if images is not None else queries if by == "image" else None
    if near_threshold is None or pictures is None:
        hits = memory.search(queries, by=by, k=k, where=where, exclude=banned)
        return Neighbours(hits.ids, hits.ids >= 0, hits.scores)
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    pending, width = np.arange(len(queries)), k + 8
    while len(pending):
        unfilled = []
        for part in np.array_split(pending, -(-len(pending) * width // CANDIDATES)):
            rows = torch.from_numpy(part)
            exclude = None if banned is None else [banned[i] for i in part.tolist()]
            hits = memory.search(queries[rows], by=by, k=width, where=where, exclude=exclude)
            kept = hits.ids >= 0
            kept &= _image_cosines(memory, hits.ids, pictures[rows]) <= near_threshold
            order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
            filled = np.take_along_axis(kept, order, axis=1)
            found[part] = np.where(filled, np.take_along_axis(hits.ids, order, axis=1), -1)
            scores[part] = np.where(filled, np.take_along_axis(hits.scores, order, axis=1), -np.inf)
            unfilled.append(part[~filled.all(axis=1) & (hits.ids >= 0).all(axis=1)])
        pending, width = np.concatenate(unfilled), 2 * width
    return Neighbours(found, found >= 0, scores)


def _image_cosines(memory: "Memory", ids: npt.NDArray[np.int64], images: torch.Tensor) -> npt.NDArray[np.float32]:
    """Cosine of each query's image (n, d) with the images of its rows (n, k)."""
    own = torch.nn.functional.normalize(images.float(), dim=1)
    step = max(1, CANDIDATES // (16 * ids.shape[1]))
    parts = [
        torch.einsum("nd,nkd->nk", own[start : start + step], memory.embeddings(ids[start : start + step], of="image"))
        for start in range(0, len(ids), step)
    ]
    return torch.cat(parts).numpy()


def _id_lists(ids: Any, count: int) -> list[npt.NDArray[np.int64]] | None:
    if ids is None:
        return None
    lists = [np.asarray(own, np.int64).reshape(-1) for own in ids]
    if len(lists) != count:
        raise ValueError(f"exclude_self_ids has {len(lists)} entries for {count} queries")
    return lists
