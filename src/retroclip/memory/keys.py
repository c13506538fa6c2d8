"""Which keys there are, in eight bytes each, and what rows of embeddings are called that have no name."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]
PART_AND_PLACE = "[0-9]{4,}/[0-9]{7,}"
"""What was the whole of such a key before 2026-11-26, in blocklists as well."""
CONTENT_BYTES = 6  # of an embedding's hash in a key, beside the row's place
_MADE = re.compile(rf".*/({PART_AND_PLACE})-[0-9a-f]{{{2 * CONTENT_BYTES}}}", re.DOTALL)


def former_key(part: int, place: int) -> str:
    return f"{part:04d}/{place:07d}"


def made_key(folder: str, former: str, vector: npt.NDArray[np.float16]) -> str:
    """The folder, the part and place of a row, and a hash of its embedding (d,)."""
    return f"{folder}/{former}-{hashlib.blake2b(vector.tobytes(), digest_size=CONTENT_BYTES).hexdigest()}"


def former_of(key: str) -> str | None:
    """The part and place in a made key; None for any other."""
    made = _MADE.fullmatch(key)
    return made[1] if made else None


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
