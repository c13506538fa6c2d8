"""Near-duplicates: all of them, however many one image has."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps

from retroclip.evaluation import leakage
from retroclip.evaluation.leakage import near_duplicates, thumbnail, without

SIZE = 64


def test_all_near_duplicates_are_found_whatever_part_of_the_rows_is_compared_at_a_time(make_memory, monkeypatch):
    rng = np.random.default_rng(0)
    copies = np.eye(8)[[0]] + rng.normal(scale=0.02, size=(48, 8))
    rest = np.eye(8)[rng.integers(1, 8, size=30)]
    memory = make_memory(np.vstack([rest, copies]), np.ones((78, 8)))
    images = torch.eye(8)[:2]
    expected = np.flatnonzero((memory.images @ images.T).amax(1).numpy() > 0.95)
    assert len(expected) > 48
    for scores in (2, 10, 2**24):
        monkeypatch.setattr(leakage, "SCORES", scores)
        assert (near_duplicates(memory, images) == expected).all()


def test_nothing_near_leaves_the_memory_itself(make_memory):
    memory = make_memory(np.eye(8)[1:], np.eye(8)[1:])
    assert len(near_duplicates(memory, torch.eye(8)[:1])) == 0
    assert without(memory, np.zeros(0, np.int64)) is memory
    hidden = without(memory, np.array([2]))
    assert all(2 not in hidden.search(torch.eye(8)[:1], k=7, hidden=also).ids for also in (None, [3]))


def test_an_empty_memory_has_no_duplicates(make_memory):
    assert len(near_duplicates(make_memory(np.zeros((0, 8)), np.zeros((0, 8))), torch.eye(8))) == 0


def encoded(image, size):
    buffer = io.BytesIO()
    image.resize(size).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def test_near_ones_must_look_alike_where_they_can_be_looked_at(make_memory, make_image, monkeypatch):
    same, other = make_image(1), make_image(2)
    stored = [encoded(same, (60, 50)), encoded(ImageOps.mirror(same), (64, 64)), encoded(other, (60, 50)), None]
    memory = make_memory(np.eye(8)[[0, 0, 0, 0, 1]], np.ones((5, 8)))
    monkeypatch.setattr(
        memory, "take", lambda ids, columns: pa.table({"image": pa.array([stored[i] for i in ids], pa.binary())})
    )
    images = torch.eye(8)[:1]
    assert near_duplicates(memory, images).tolist() == [0, 1, 2, 3]
    assert near_duplicates(memory, images, pictures=[encoded(same, (96, 80))]).tolist() == [0, 1, 3]


def test_a_product_of_thumbnails_is_the_correlation(make_image):
    images = [encoded(make_image(seed), (SIZE, SIZE)) for seed in (1, 2)]
    values = [np.asarray(Image.open(io.BytesIO(image)), float) for image in images]
    blocks = [v.reshape(16, SIZE // 16, 16, SIZE // 16, 3).mean((1, 3)) for v in values]
    centred = [b - b.mean((0, 1)) for b in blocks]
    expected = (centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    assert thumbnail(images[0]) @ thumbnail(images[1]) == pytest.approx(expected, abs=0.01)
    assert np.linalg.norm(thumbnail(images[0])) == pytest.approx(1)
