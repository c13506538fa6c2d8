"""The `ivf` index: rows of 8 bits in lists around centroids, searched for many queries at once by matrix products.

A list is scored for all queries that look into it by one int8 product, so that a batch reads each list once instead of
once a query; the best rows by these coarse scores are then scored exactly from the rows themselves.
"""

import time
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from retroclip.memory.arrays import ArrayFile, new_arrays, released
from retroclip.memory.candidates import Candidates
from retroclip.memory.exact import LEAST_K, fast_bf16, rescored
from retroclip.memory.progress import Done, nothing
from retroclip.memory.rows import CHUNK, Rows, chunks, sampled
from retroclip.memory.schema import FloatMatrix, IdArray

faiss: Any = faiss_module
TRAIN_ROWS = 64  # rows a list that centroids are trained on
TRAIN_ROUNDS = 8
QUERIES = 1024  # searched at a time
FARTHER = 3  # times as many rows more are met where the lists near a query hold none that a filter keeps
NEAREST_FIRST = 2  # lists a query looks into before the bar for the others is set


@dataclass(frozen=True, slots=True)
class Coder:
    """Turns rows (n, d) into codes (n, c) of int8: turned by `rotation` (d, c), times `scale`, rounded and clipped.

    The rotation spreads each row evenly over the dimensions, so that one scale fits all and the integer product of two
    codes orders rows like their cosine. With c < d it first keeps the c directions in which rows differ most (PCA).
    """

    rotation: torch.Tensor
    scale: float

    @classmethod
    def fit(cls, sample: torch.Tensor, dims: int, seed: int) -> "Coder":
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64))[0]
        if dims < sample.shape[1]:
            moments = sample.double().T @ sample.double()
            rotation = torch.linalg.eigh(moments)[1][:, -dims:] @ rotation
        rotation = rotation.float()
        turned = (sample[:10_000] @ rotation).abs()
        return cls(rotation, 127 / float(turned.flatten().kthvalue(max(1, int(0.9999 * turned.numel())))[0]))

    def turned(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.rotation

    def codes(self, turned: torch.Tensor) -> torch.Tensor:
        return (turned * self.scale).round().clamp(-127, 127).to(torch.int8)


class ListIndex:
    """A stored index, memory-mapped; `places` are positions in the rows it was built from."""

    def __init__(self, path: Path) -> None:
        self.file = ArrayFile(path)
        self.coder = Coder(torch.from_numpy(self.file["rotation"]), float(self.file["scale"][0]))
        self.centroids = torch.from_numpy(self.file["centroids"])
        self.offsets = self.file["offsets"]
        self.places = torch.from_numpy(self.file["places"])
        self.codes = torch.from_numpy(self.file["codes"])

    def __len__(self) -> int:
        return len(self.places)

    def lists(self) -> IdArray:
        """The list of each row, by position."""
        result = np.empty(len(self), np.int64)
        result[self.file["places"]] = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return result

    def nearest(
        self, queries: torch.Tensor, rows: Rows, k: int, parameters: dict[str, int], allowed: torch.Tensor | None = None
    ) -> tuple[IdArray, FloatMatrix]:
        """Positions and scores (n, k), best first, -1 and -inf in empty places; `rerank` times as many are scored."""
        parts = [
            rescored(
                part,
                rows,
                None,
                self.search(part, parameters["rerank"] * max(k, LEAST_K), parameters["nprobe"], allowed),
                k,
            )
            for part in queries.split(QUERIES)
        ]
        return np.concatenate([found for found, _ in parts]), np.concatenate([scores for _, scores in parts])

    def search(self, queries: torch.Tensor, depth: int, nprobe: int, allowed: torch.Tensor | None = None) -> Candidates:
        """The `depth` best rows by coarse scores in the `nprobe` nearest lists, or more; allowed: bool by position."""
        turned = self.coder.turned(queries)
        order, probed = self._probed(turned @ self.centroids.T, nprobe, allowed)
        candidates = Candidates(len(queries), depth)
        if fast_int8():
            turned = (turned * (127 / turned.abs().amax(dim=1, keepdim=True))).round().to(torch.int8)
        elif fast_bf16():
            turned = turned.bfloat16()
        lowest = torch.iinfo(torch.int32).min if turned.dtype == torch.int8 else -torch.inf
        nearest = probed & (probed.cumsum(dim=1) <= NEAREST_FIRST)
        for now in (nearest, probed & ~nearest):
            of, column = now.nonzero(as_tuple=True)
            lists, which = order[of, column].sort(stable=True)
            of = of[which]
            ends = torch.searchsorted(lists, torch.arange(len(self.centroids) + 1)).tolist()
            for number, (first, last) in enumerate(pairwise(ends)):
                start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
                if first == last or start == stop:
                    continue
                members = of[first:last]
                scores = products(turned[members], self.codes[start:stop])
                places = self.places[start:stop]
                if allowed is not None:
                    scores.masked_fill_(~allowed[places], lowest)
                candidates.offer(members, scores, places)
            candidates.settle()
        return candidates

    def _probed(
        self, affinity: torch.Tensor, nprobe: int, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lists by affinity (n, lists), nearest first, and which of them a query looks into: (n, m) each.

        A filter that keeps rows of one kind leaves the lists near a query of another kind empty. So one looks on, until
        it has met as many kept rows as `nprobe` lists hold that kept rows typically lie in, and up to `FARTHER` times
        as many more the fewer its own `nprobe` lists hold. [D]
        """
        if allowed is None:
            order = affinity.topk(min(nprobe, affinity.shape[1]), dim=1).indices
            return order, torch.ones_like(order, dtype=torch.bool)
        before = torch.cat([torch.zeros(1, dtype=torch.int64), allowed[self.places].cumsum(0)])
        kept = before[torch.from_numpy(self.offsets)].diff()
        typical = float(kept.double().square().sum() / kept.sum().clamp(min=1))
        order = affinity.argsort(dim=1, descending=True)
        met = kept[order]
        near = torch.from_numpy(self.offsets).diff()[order[:, :nprobe]].sum(dim=1)
        missing = 1 - met[:, :nprobe].sum(dim=1) * (len(self) / kept.sum().clamp(min=1)) / near.clamp(min=1)
        wanted = nprobe * typical * (1 + FARTHER * missing.clamp(min=0))[:, None]
        needed = (met.cumsum(dim=1) - met < wanted) | (torch.arange(order.shape[1]) < nprobe)
        return order, needed & (met > 0)


def products(queries: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Inner products (m, n) of queries (m, c) with int8 codes (n, c), in the queries' number format; int8 → int32."""
    if queries.dtype == torch.int8:
        return torch._int_mm(codes, queries.T).T  # the smaller matrix is the one that is packed
    return (queries @ codes.to(queries.dtype).T).float()


@cache
def fast_int8() -> bool:
    """Whether this processor multiplies int8 matrices faster than any other format, and rightly: tried, not looked up.

    Older instruction sets saturate sums of two products, which the trial's extreme values would show.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    small = torch.randint(-127, 128, (64, 512), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    small[:2], small[2:4] = 127, -127
    large = small.repeat(16, 1)
    other = torch.bfloat16 if fast_bf16() else torch.float32
    try:
        if not torch.equal(products(small, large), (small.double() @ large.double().T).int()):
            return False
        return _seconds(small, large) < _seconds(small.to(other), large)
    except RuntimeError:
        return False


def _seconds(queries: torch.Tensor, codes: torch.Tensor) -> float:
    runs = []
    for _ in range(6):  # the first one is a warm-up
        start = time.perf_counter()
        products(queries, codes)
        runs.append(time.perf_counter() - start)
    return min(runs[1:])


def default_lists(rows: int) -> int:
    """About √n lists, a power of two."""
    return 2 ** max(2, round(np.log2(max(rows, 16) ** 0.5)))


def build_lists(path: Path, rows: Rows, *, lists: int, dims: int, seed: int = 0, done: Done = nothing) -> None:
    """Write a `ListIndex` of the rows to `path`, holding a sample and one chunk of rows at a time."""
    sample = torch.from_numpy(sampled(rows, lists * TRAIN_ROWS))
    coder = Coder.fit(sample, dims, seed)
    turned = torch.nn.functional.normalize(coder.turned(sample), dim=1).numpy()
    trained = faiss.Kmeans(
        dims, min(lists, len(turned)), niter=TRAIN_ROUNDS, spherical=True, seed=seed, min_points_per_centroid=1
    )
    trained.train(turned)
    write_lists(path, coder, torch.from_numpy(trained.centroids), rows, done=done)


def extend_lists(path: Path, old: ListIndex, kept: IdArray, added: Rows, done: Done = nothing) -> None:
    """Write the index of the rows of `old` at positions `kept`, followed by those of `added`; nothing is trained."""
    codes_of = np.empty(len(old), np.int64)
    codes_of[old.file["places"]] = np.arange(len(old))
    before = old.lists()[kept], old.file["codes"], codes_of[kept]
    write_lists(path, old.coder, old.centroids, added, before, done)


def write_lists(
    path: Path,
    coder: Coder,
    centroids: torch.Tensor,
    rows: Rows,
    before: tuple[IdArray, Any, IdArray] | None = None,
    done: Done = nothing,
) -> None:
    """Write rows in their lists to `path`.

    before: rows that come first and are coded already: their lists, a matrix of codes, and the line of each in it.
    """
    temporary = path.with_name(path.name + ".codes")
    count = 0 if before is None else len(before[0])
    assigned = np.empty(count + len(rows), np.int64)
    fresh: Any = np.zeros((0, coder.rotation.shape[1]), np.int8)
    try:
        if len(rows):
            fresh = np.memmap(temporary, np.int8, mode="w+", shape=(len(rows), coder.rotation.shape[1]))
        for places in chunks(len(rows)):
            turned = coder.turned(rows.gather(places))
            assigned[count + places] = nearest_centroid(turned, centroids)
            fresh[places] = coder.codes(turned).numpy()
            rows.release()
            released(fresh)
            done(int(places[-1]) + 1)
        if before is not None:
            assigned[:count] = before[0]
        order = np.argsort(assigned, kind="stable")
        shapes = {
            "rotation": (np.float32, tuple(coder.rotation.shape)),
            "scale": (np.float32, (1,)),
            "centroids": (np.float32, tuple(centroids.shape)),
            "offsets": (np.int64, (len(centroids) + 1,)),
            "places": (np.int32, (len(order),)),
            "codes": (np.int8, (len(order), coder.rotation.shape[1])),
        }
        with new_arrays(path, shapes) as arrays:
            arrays["rotation"][:] = coder.rotation.numpy()
            arrays["scale"][:] = coder.scale
            arrays["centroids"][:] = centroids.numpy()
            arrays["offsets"][:] = np.searchsorted(assigned[order], np.arange(len(centroids) + 1))
            arrays["places"][:] = order
            for places in chunks(len(order), 4 * CHUNK):
                chosen = order[places]
                later = chosen >= count
                block = arrays["codes"][places[0] : places[-1] + 1]
                block[later] = fresh[chosen[later] - count]
                if before is not None:
                    block[~later] = before[1][before[2][chosen[~later]]]
                released(block)
                if len(rows):
                    released(fresh)
    finally:
        temporary.unlink(missing_ok=True)


def nearest_centroid(turned: torch.Tensor, centroids: torch.Tensor) -> IdArray:
    """The list (n,) of each row: that of the centroid with the largest inner product."""
    kind = torch.bfloat16 if fast_bf16() else torch.float32
    table = centroids.to(kind).T
    parts = [(part.to(kind) @ table).argmax(dim=1) for part in turned.split(4096)]
    return torch.cat(parts).numpy()
