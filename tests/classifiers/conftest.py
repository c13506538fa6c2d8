"""An encoder whose texts are looked up by the class they name, and retrieved pairs held in arrays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from retroclip.tasks import Task

CLASSES = ["cat", "sea horse", "horse"]


class ClassEncoder:
    """Embeds a text as the axis of the class it names, tilted by its length; images are embeddings already."""

    name, dim, logit_scale = "axes", 8, 20.0

    def encode_images(self, images):
        return F.normalize(torch.as_tensor(images), dim=-1)

    def encode_texts(self, texts):
        rows = torch.zeros(len(texts), 8)
        for row, text in zip(rows, texts, strict=True):
            for axis, name in enumerate(CLASSES):
                row[axis] += name in text
            row[3] = 0.01 * len(text)
        return F.normalize(rows, dim=-1)


@pytest.fixture
def encoder():
    return ClassEncoder()


@pytest.fixture
def task():
    templates = ["a photo of a {}.", "a drawing of the {}, in ink."]
    return Task("animals", classes=list(CLASSES), synonyms={"cat": ["tabby", "kitty"]}, templates=templates)


def clustered(labels: list[int], seed: int = 0) -> torch.Tensor:
    """Images near class axes that lie elsewhere (axes 4 to 6) than the texts: a modality gap."""
    noise = 0.2 * torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed))
    return F.normalize(
        torch.eye(8)[torch.tensor(labels) + 4] + 0.2 * torch.eye(8)[torch.tensor(labels)] + noise, dim=-1
    )


@pytest.fixture
def make_images():
    return clustered


@pytest.fixture
def retrieved():
    labels = [0] * 6 + [1] * 2 + [2] * 4
    captions = [("my cat",)] * 5 + [("two tabbies", "a KITTY sleeps")] + [("a sea_horse",)] * 2 + [("horses",)] * 3
    return SimpleNamespace(image_embeddings=clustered(labels), captions=[*captions, ("grass and a fence",)])
