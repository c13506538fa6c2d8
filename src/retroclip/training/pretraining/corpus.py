"""The images and texts of a recipe's sources: decoded once, kept on disk, and drawn in an order that is a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retroclip.errors import RetroclipError
from retroclip.files import whole_file
from retroclip.pairs import Pair, decode_image, read_pairs
from retroclip.training.distributed import is_main, wait
from retroclip.training.pretraining.recipe import Source


def square(image: Image.Image, size: int) -> np.ndarray:
    """The central square of an image at `size` pixels, uint8 (3, size, size)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)


class Corpus:
    """One source: `pixels` (n, 3, S, S) uint8, mapped from disk, and `rows`, a dict with key, captions, label each.

    The files' names hold a digest of source, size and limit; they appear when whole. Rows of the other kind (captions
    asked for, but only a label there) are left out. Raises RetroclipError when nothing is left.
    """

    def __init__(self, source: Source, data: Path, folder: Path, size: int) -> None:
        self.source, self.size = source, size
        self.path = f"{data / source.file}"
        digest = hashlib.sha256(json.dumps([self.path, size, source.limit, source.text]).encode()).hexdigest()[:8]
        self.name = f"{source.name}-{digest}"
        self._stem = folder / self.name

    def build(self, on_progress: Callable[[str], None]) -> Corpus:
        """Decode what isn't there yet, and map it."""
        file, note = self._stem.with_suffix(".npy"), self._stem.with_suffix(".json")
        if not file.exists() and is_main():
            file.parent.mkdir(parents=True, exist_ok=True)
            on_progress(f"{self.source.name}: decoding")
            pixels, rows = self._decoded()
            note.write_text(json.dumps(rows))
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, pixels)
        wait()
        self.rows: list[dict[str, Any]] = json.loads(note.read_text())
        self.pixels = np.load(file, mmap_mode="r")
        return self

    def pairs(self) -> Iterator[Pair]:
        """The source's pairs in the order of `rows`, their images as they are stored."""
        pairs = (pair for pair in read_pairs(self.path) if isinstance(pair, Pair) and pair.image is not None)
        wanted = (p for p in pairs if (p.captions if self.source.text == "captions" else p.label))
        return islice(wanted, self.source.limit)

    def _decoded(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        arrays: list[np.ndarray] = []
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(2) as pool:
            pairs = self.pairs()
            while chunk := list(islice(pairs, 256)):
                arrays += pool.map(self._square, chunk)
                rows += [{"key": p.key, "captions": list(p.captions), "label": p.label} for p in chunk]
        if not rows:
            raise RetroclipError(f"{self.path}: no image with {self.source.text}; the recipe asks for them")
        return np.stack(arrays), rows

    def _square(self, pair: Pair) -> np.ndarray:
        assert pair.image is not None
        return square(decode_image(pair.image), self.size)

    def __len__(self) -> int:
        return len(self.rows) - self.source.holdout

    def take(self, rows: np.ndarray) -> Tensor:
        """Pixels uint8 (m, 3, S, S) of the given rows."""
        return torch.from_numpy(self.pixels[rows])


class Order:
    """Which rows of `count` a step draws: shuffled passes one after the other, `share` rows a step.

    A function of seed and step, so that a resumed run goes on where it was.
    """

    def __init__(self, count: int, share: int, seed: int) -> None:
        self.count, self.share, self.seed = count, share, seed
        self._pass = lru_cache(maxsize=4)(lambda number: np.random.default_rng([seed, number]).permutation(count))

    def rows(self, step: int) -> np.ndarray:
        """The rows of one step, (share,)."""
        places = np.arange(step * self.share, (step + 1) * self.share)
        return np.array([self._pass(int(place // self.count))[place % self.count] for place in places])
