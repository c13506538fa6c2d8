"""Which keys there are, in eight bytes each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]


def key_hashes(keys: Sequence[str]) -> Hashes:
    """64-bit hashes of keys, good for this process only. Two of a million keys meet with a probability of 3e-8."""
    return np.fromiter(map(hash, keys), np.int64, len(keys))


class KeySet:
    """A growing set of hashed keys: sorted arrays, of which two of about the same length are merged."""

    def __init__(self, hashes: Hashes | None = None) -> None:
        self._runs: list[Hashes] = []
        if hashes is not None:
            self.add(hashes)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: Hashes) -> None:
        """Add keys that aren't there yet."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        if len(run):
            self._runs.append(run)

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of the keys are there."""
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes).clip(max=len(run) - 1)
            found |= run[places] == hashes
        return found
