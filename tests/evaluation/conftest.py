"""Small stand-ins: images that are vectors, an encoder that reads them, a memory that searches by brute force."""

import io
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from retroclip.errors import BadImageError
from retroclip.pairs import LabelledSet
from retroclip.tasks import Task

DIM = 8
CLASSES = ["circle", "square", "star", "cross"]


def unit(x):
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(x), dtype=torch.float32), dim=-1)


def vector_image(vector) -> bytes:
    """A PNG of one row whose grey values are the vector."""
    pixels = np.clip(np.asarray(vector) * 127 + 128, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(pixels[None], 3, axis=0)).save(buffer, "PNG")
    return buffer.getvalue()


class VectorEncoder:
    """Reads `vector_image`s; the text of a class is its unit vector. Counts its calls."""

    def __init__(self, name="vectors", turn=0.0):
        self.name, self.dim, self.logit_scale, self.precision = name, DIM, 20.0, "fp32"
        self.fingerprint = f"{name}-{turn}"
        self.turn, self.images_encoded = turn, 0

    def encode_images(self, images, *, batch_size=64, progress=False):
        rows = []
        for data in images:
            try:
                rows.append(np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=float)[0] - 128)
            except OSError as error:
                raise BadImageError("not an image") from error
        self.images_encoded += len(rows)
        return unit(np.array(rows) + self.turn * np.roll(rows, 1, axis=1))

    def encode_texts(self, texts, *, batch_size=256):
        return unit([[float(name in text) + 0.01 for name in CLASSES] + [0.1] * (DIM - len(CLASSES)) for text in texts])


class BruteMemory:
    """The part of `Memory` that evaluation touches, over arrays."""

    def __init__(self, images, texts):
        self.images, self.texts = unit(images), unit(texts)
        self.path, self.id, self.version = Path("brute"), "first", 1

    def __len__(self):
        return len(self.images)

    def ids(self):
        return np.arange(len(self.images))

    def has_text(self):
        return np.ones(len(self.images), dtype=bool)

    def take(self, ids, columns):
        return pa.table({"image": pa.nulls(len(ids), pa.binary())})

    def embeddings(self, ids=None, *, of="image"):
        return getattr(self, f"{of}s")[self.ids() if ids is None else ids]

    def check_encoder(self, encoder):
        pass

    def search(self, queries, *, by="image", k=10, where=None, exclude=None, hidden=()):
        scores = (unit(queries) @ self.embeddings(of=by).T).numpy()
        scores[:, np.asarray(hidden, dtype=int)] = -np.inf
        for row, own in enumerate(exclude or []):
            scores[row, np.asarray(own, dtype=int)] = -np.inf
        ids = np.argsort(-scores, axis=1)[:, :k]
        best = np.take_along_axis(scores, ids, axis=1)
        return types.SimpleNamespace(ids=np.where(np.isinf(best), -1, ids), scores=best)


def draw(n, noise, seed):
    """n vectors near the unit vectors of their classes, and the class indices."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(CLASSES), size=n)
    return np.eye(DIM)[labels] * 0.6 + rng.normal(scale=noise, size=(n, DIM)) * 0.5, labels


@pytest.fixture
def encoder():
    return VectorEncoder()


@pytest.fixture
def make_encoder():
    return VectorEncoder


@pytest.fixture
def make_memory():
    return BruteMemory


@pytest.fixture
def task():
    return Task("shapes", classes=CLASSES, templates=["a photo of a {}."])


@pytest.fixture
def dataset():
    vectors, labels = draw(120, noise=0.6, seed=0)
    return LabelledSet(
        name="shapes",
        split="val",
        keys=[f"k{i}" for i in range(120)],
        images=[vector_image(v) for v in vectors],
        labels=[CLASSES[i] for i in labels],
    )


@pytest.fixture
def memory():
    vectors, labels = draw(200, noise=0.4, seed=1)
    return BruteMemory(vectors, np.eye(DIM)[labels] + 0.05)
