from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from retroclip.evaluation.robustness import CorruptedMemory, replaced, with_noise


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_each_rows_places_is_drawn_from_the_pool(share, count):
    ids = np.arange(80).reshape(10, 8)
    ids[3, 5:] = -1
    noisy, changed = replaced(ids, np.arange(1000, 1100), share, np.random.default_rng(0))
    assert (changed.sum(axis=1)[np.arange(10) != 3] == count).all()
    assert ((noisy >= 1000) == changed).all() and (noisy[~changed] == ids[~changed]).all()
    assert (noisy[3, 5:] == -1).all()


class Rows:
    path = "rows"

    def __init__(self):
        self.rows = normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), dim=1)

    def ids(self):
        return np.arange(30)

    def has_text(self):
        return np.arange(30) >= 10

    def embeddings(self, ids, *, of):
        return self.rows[torch.as_tensor(ids)]

    def search(self, queries, *, by="image", k=4, where=None):
        best = (queries @ self.rows.T).topk(k, dim=1)
        return SimpleNamespace(ids=best.indices.numpy(), scores=best.values.numpy())


def test_random_neighbours_have_text_and_their_own_cosines():
    memory = Rows()
    noisy, queries = CorruptedMemory(memory, 0.5), memory.rows[:20]
    hits, clean = noisy.search(queries, k=4), memory.search(queries, k=4)
    np.testing.assert_allclose(hits.scores, np.take_along_axis((queries @ memory.rows.T).numpy(), hits.ids, 1), 1e-5)
    changed = hits.ids != clean.ids
    assert 20 < changed.sum() <= 40 and (hits.ids[changed] >= 10).all()
    assert noisy.path == "rows" and with_noise(memory, 0.0) is memory
