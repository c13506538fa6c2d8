"""Embeddings by position, wherever they are: in RAM, in a memory-mapped file, or a part or a sequence of others."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from retroclip.memory.arrays import ArrayFile
from retroclip.memory.schema import FloatMatrix, IdArray

CHUNK = 2**16  # rows held as float32 at a time: 128 MB at d = 512
COARSE_CHUNK = 2**13  # fit the cache
SAMPLED = 2**12  # rows gathered from all over a file at a time: each brings its neighbours into RAM with it


class Rows(Protocol):
    """n unit-norm embeddings of d numbers."""

    def __len__(self) -> int: ...

    def gather(self, places: IdArray) -> torch.Tensor:
        """Those at the given positions, float32 (m, d)."""
        ...

    def release(self) -> None:
        """Give back what was mapped for the gathers so far."""
        ...


class CoarseRows:
    """Rows in bfloat16 (n, d), and what is needed to bound the scores by them.

    norm: the largest norm among them; error: the largest distance of one from the row it stands for.
    """

    def __init__(self, rows: Rows, dim: int) -> None:
        self.matrix = torch.empty(len(rows), dim, dtype=torch.bfloat16)
        self.norm = self.error = 0.0
        for places in chunks(len(rows), COARSE_CHUNK):
            true, block = rows.gather(places), self.matrix[int(places[0]) : int(places[-1]) + 1]
            block.copy_(true)
            rounded = block.float()
            self.norm = max(self.norm, float(rounded.norm(dim=1).max()))
            self.error = max(self.error, float(rounded.sub_(true).norm(dim=1).max()))
        rows.release()


class HeldRows:
    """Rows in RAM, float32 (n, d)."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self._coarse: CoarseRows | None = None

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def has_coarse(self) -> bool:
        return self._coarse is not None

    def gather(self, places: IdArray) -> torch.Tensor:
        return self.matrix.index_select(0, torch.from_numpy(places))

    def release(self) -> None:
        pass

    def coarse(self) -> CoarseRows:
        """The rows in bfloat16, made at the first call and kept."""
        if self._coarse is None:
            self._coarse = CoarseRows(self, self.matrix.shape[1])
        return self._coarse


class HalfRows:
    """Rows of float16 (n, d), in RAM or a memory map; brought back to unit norm as they are read.

    scales: one over their norms, float32 (n,), computed when not given. file: what they are mapped from.
    """

    def __init__(self, matrix: torch.Tensor, scales: torch.Tensor | None = None, file: ArrayFile | None = None) -> None:
        self._matrix = matrix
        self.scales = unit_scales(matrix) if scales is None else scales
        self._file = file
        self._coarse: CoarseRows | None = None

    def __len__(self) -> int:
        return len(self._matrix)

    def gather(self, places: IdArray) -> torch.Tensor:
        if len(places) > 1 and places[-1] - places[0] == len(places) - 1 and (np.diff(places) == 1).all():
            run = slice(int(places[0]), int(places[-1]) + 1)
            return self._matrix[run].float().mul_(self.scales[run, None])
        chosen = torch.from_numpy(places)
        return self._matrix.index_select(0, chosen).float().mul_(self.scales[chosen, None])

    def raw(self, places: IdArray) -> Any:
        """Those at the given positions as they are stored."""
        return self._matrix[torch.from_numpy(places)].numpy()

    def release(self) -> None:
        if self._file is not None:
            self._file.release()

    def coarse(self) -> CoarseRows:
        """The rows in bfloat16, made at the first call and kept."""
        if self._coarse is None:
            self._coarse = CoarseRows(self, self._matrix.shape[1])
        return self._coarse


@dataclass(frozen=True, slots=True)
class JoinedRows:
    """The rows of `first`, then those of `second`."""

    first: Rows
    second: Rows

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def gather(self, places: IdArray) -> torch.Tensor:
        later = places >= len(self.first)
        if not later.any():
            return self.first.gather(places)
        if later.all():
            return self.second.gather(places - len(self.first))
        one, other = self.first.gather(places[~later]), self.second.gather(places[later] - len(self.first))
        result = torch.empty(len(places), one.shape[1])
        result[torch.from_numpy(~later)] = one
        result[torch.from_numpy(later)] = other
        return result

    def release(self) -> None:
        self.first.release()
        self.second.release()


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Those of `rows` at the positions `places`."""

    rows: Rows
    places: IdArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.places)

    def gather(self, places: IdArray) -> torch.Tensor:
        return self.rows.gather(self.places[places])

    def release(self) -> None:
        self.rows.release()


def unit_scales(matrix: torch.Tensor) -> torch.Tensor:
    """What the rows (n, d) are to be multiplied with, float32 (n,), to have unit norm."""
    parts = [part.float().norm(dim=1) for part in matrix.split(CHUNK)]
    return 1 / torch.cat(parts).clamp(min=1e-12) if parts else torch.zeros(0)


def chunks(count: int, size: int = CHUNK) -> Iterator[IdArray]:
    """The positions 0 … count-1 in runs of `size`."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def sampled(rows: Rows, count: int) -> FloatMatrix:
    """`count` rows at even steps, or all of them when they are fewer."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    parts = []
    for chosen in np.array_split(places, range(SAMPLED, len(places), SAMPLED)):
        parts.append(rows.gather(chosen).numpy())
        rows.release()
    return np.concatenate(parts)
