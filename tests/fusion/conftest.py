"""A memory and an encoder held in arrays: just what fusion asks of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F


class ArrayMemory:
    """Search by brute force over two arrays; row ids are 100, 101, …; a zero text row is a pair without caption."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor) -> None:
        self.parts = {"image": images, "text": texts}
        self.path, self.id, self.version = Path("array-memory"), "first", 1
        self.searches = 0

    def check_encoder(self, encoder) -> None:
        pass

    def ids(self) -> np.ndarray:
        return 100 + np.arange(len(self.parts["image"]))

    def has_text(self) -> np.ndarray:
        return (self.parts["text"].norm(dim=1) > 0).numpy()

    def embeddings(self, ids=None, *, of="image") -> torch.Tensor:
        if ids is None:
            return self.parts[of]
        index = torch.as_tensor(np.asarray(ids))
        return self.parts[of][(index - 100).clamp_min(0)] * (index >= 0)[..., None]

    def search(self, queries, *, by="image", k=10, where=None, exclude=None):
        self.searches += 1
        scores = queries @ self.parts[by].T
        if by == "text" or where == "caption IS NOT NULL":
            scores[:, ~torch.from_numpy(self.has_text())] = -np.inf
        for row, ids in enumerate(exclude or ()):
            scores[row, torch.as_tensor(np.asarray(ids, dtype=np.int64)) - 100] = -np.inf
        best, index = scores.topk(min(k, scores.shape[1]), dim=1)
        ids = torch.where(best.isfinite(), index + 100, -1)
        pad = k - ids.shape[1]
        return SimpleNamespace(
            ids=F.pad(ids, (0, pad), value=-1).numpy(), scores=F.pad(best, (0, pad), value=-np.inf).numpy()
        )


class ArrayEncoder:
    """Images are embeddings already; texts are looked up."""

    name, fingerprint, dim, logit_scale = "arrays", "a1", 16, 20.0

    def __init__(self) -> None:
        self.calls = 0

    def encode_images(self, images):
        return F.normalize(torch.as_tensor(images), dim=-1)

    def encode_texts(self, texts):
        self.calls += 1
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return F.normalize(torch.stack(rows), dim=-1)

    def save(self, directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "retroclip.json").write_text(json.dumps({"name": "arrays"}))


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def make_memory():
    return ArrayMemory


@pytest.fixture
def memory() -> ArrayMemory:
    """Forty pairs of which rows 3, 4 and 5 have no text."""
    texts = unit(40, seed=2)
    texts[3:6] = 0
    return ArrayMemory(unit(40, seed=1), texts)


@pytest.fixture
def encoder() -> ArrayEncoder:
    return ArrayEncoder()
