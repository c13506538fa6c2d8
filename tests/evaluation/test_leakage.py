"""Near-duplicates: all of them, however many one image has."""

import numpy as np
import torch

from retroclip.evaluation.leakage import FIRST_K, near_duplicates, without


def test_all_near_duplicates_are_found_beyond_the_first_k(make_memory):
    rng = np.random.default_rng(0)
    copies = np.eye(8)[[0]] + rng.normal(scale=0.02, size=(3 * FIRST_K, 8))
    rest = np.eye(8)[rng.integers(1, 8, size=30)]
    memory = make_memory(np.vstack([rest, copies]), np.ones((30 + 3 * FIRST_K, 8)))
    images = torch.eye(8)[:1]
    expected = np.flatnonzero((memory.images @ images.T)[:, 0].numpy() > 0.95)
    assert len(expected) == 3 * FIRST_K
    assert (near_duplicates(memory, images) == expected).all()


def test_nothing_near_leaves_the_memory_itself(make_memory):
    memory = make_memory(np.eye(8)[1:], np.eye(8)[1:])
    assert len(near_duplicates(memory, torch.eye(8)[:1])) == 0
    assert without(memory, np.zeros(0, np.int64)) is memory


def test_an_empty_memory_has_no_duplicates(make_memory):
    assert len(near_duplicates(make_memory(np.zeros((0, 8)), np.zeros((0, 8))), torch.eye(8))) == 0
