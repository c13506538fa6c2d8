"""Stored indexes: recall, filters, newer rows, damage."""

import numpy as np
import pytest
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory import Memory
from retroclip.memory.exact import block_topk, exact_search, positions_of
from retroclip.memory.index import IndexFolder, KeyIndex, build_index, search_index, tuned_parameters
from retroclip.memory.search import Keys, best_of, search_keys

ROWS, DIM = 4000, 24


def unit(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(np.arange(ROWS) * 3 + 5, torch.from_numpy(unit(ROWS, 1)))


@pytest.fixture(scope="module")
def hnsw(keys):
    index = build_index("hnsw", keys.ids, keys.rows.numpy())
    queries = {"own": keys.rows.numpy()[::40].copy(), "cross": unit(64, 2)}
    parameters, recall = tuned_parameters("hnsw", index, keys.nearest, queries, 0.95)
    return index, KeyIndex("hnsw", 1, ROWS, int(keys.ids[-1]), parameters, recall)


def recall_at(k: int, hits, exact) -> float:
    return float(np.mean([np.isin(e, h).mean() for e, h in zip(exact, hits.ids[:, :k], strict=True)]))


def test_measured_recall_is_that_of_fresh_queries(keys, hnsw):
    index, entry = hnsw
    assert entry.recall["own"]["10"] >= 0.95
    assert entry.recall["cross"]["10"] >= 0.95
    assert entry.parameters["efSearch"] >= 64
    queries = torch.from_numpy(unit(200, 3))
    hits = search_keys(queries, keys, 10, index=index, entry=entry)
    exact = exact_search(queries, keys.rows, keys.ids, 10)[0]
    assert recall_at(10, hits, exact) >= 0.95
    assert (np.diff(hits.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("share", [0.5, 0.25, 0.05, 0.001])
def test_k_is_filled_under_filters(keys, hnsw, share):
    index, entry = hnsw
    allowed = np.sort(np.random.default_rng(4).choice(keys.ids, int(share * ROWS), replace=False))
    queries = torch.from_numpy(unit(50, 5))
    hits = search_keys(queries, keys, 20, index=index, entry=entry, allowed=allowed)
    kept = keys.only(allowed)
    exact = exact_search(queries, kept.rows, kept.ids, 20)[0]
    full = min(20, len(allowed))
    assert (hits.ids[:, :full] >= 0).all()
    assert (hits.ids[:, full:] == -1).all()
    assert np.isin(hits.ids[:, :full], allowed).all()
    assert recall_at(full, hits, exact[:, :full]) >= 0.95


def test_deleted_rows_are_not_found_and_newer_ones_are(keys, hnsw):
    index, entry = hnsw
    left = keys.only(keys.ids[::40])  # so many deletions that the graph alone leaves places empty
    newer = torch.from_numpy(unit(30, 6))
    live = Keys(np.r_[left.ids, keys.ids[-1] + 1 + np.arange(30)], torch.cat([left.rows, newer]))
    queries = torch.cat([newer[:5], keys.rows[1:20:3]])
    hits = search_keys(queries, live, 10, index=index, entry=entry)
    exact, scores = exact_search(queries, live.rows, live.ids, 10)
    np.testing.assert_allclose(hits.scores, scores, atol=1e-5)
    assert np.array_equal(hits.ids, exact)
    assert hits.ids[:5, 0].tolist() == live.ids[-30:-25].tolist()


def test_flat_is_exact_under_a_selector(keys):
    index = build_index("flat", keys.ids, keys.rows.numpy())
    allowed = keys.ids[::7]
    queries = unit(20, 7)
    found, scores = search_index(index, queries, 9, {}, allowed)
    kept = keys.only(allowed)
    exact, exact_scores = exact_search(torch.from_numpy(queries), kept.rows, kept.ids, 9)
    assert np.array_equal(found, exact)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-5)


@pytest.mark.parametrize(("rows", "k"), [(1000, 3), (1023, 1), (64, 5), (5, 5), (2561, 10)])
def test_top_by_blocks_equals_topk(rows, k):
    scores = torch.from_numpy(np.random.default_rng(rows).standard_normal((20, rows)).astype(np.float32))
    scores[0, : rows - k] = -torch.inf
    values, places = block_topk(scores, k)
    wanted = scores.topk(k, dim=1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(scores.gather(1, places), wanted.values)
    assert all(len(set(row)) == k for row in places.tolist())


def test_positions_and_best():
    ids = np.array([2, 5, 9])
    assert positions_of(np.array([9, 1, 2, 11]), ids).tolist() == [2, 0]
    assert positions_of(np.array([3]), ids[:0]).tolist() == []
    found = np.array([[4, 7, 2, -1]])
    scores = np.array([[0.1, 0.9, 0.5, -np.inf]], np.float32)
    best, values = best_of(found, scores, 3, [np.array([7])])
    assert best.tolist() == [[2, 4, -1]]
    assert values[0, :2].tolist() == pytest.approx([0.5, 0.1])


def test_index_file_is_checked_and_replaced(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs)
    assert memory.info()["index"]["kind"] == "exact"
    told = memory.index("hnsw")
    assert told["recall"]["image"]["own"]["10"] >= 0.95
    assert told["keys"]["text"]["rows"] == sum(bool(pair.captions) for pair in pairs)
    stored = [tmp_path / "m" / "index" / told["keys"][name]["file"] for name in ("image", "text")]
    assert memory.verify() == []
    damaged = bytearray(stored[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stored[0].write_bytes(damaged)
    fresh = Memory.open(tmp_path / "m")
    with pytest.raises(MemoryStoreError, match="is damaged: build it again"):
        fresh.search(torch.ones(16))
    assert len(fresh.verify()) == 1
    stored[1].unlink()
    assert len(fresh.verify()) == 2
    fresh.index("flat")
    assert fresh.verify() == []
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "m" / "index").glob("*.faiss")) == ["image", "text"]
    fresh.index("auto")
    assert not list((tmp_path / "m" / "index").glob("*.faiss"))
    assert IndexFolder(tmp_path / "m").entries() == {}


def test_a_memory_without_captions_can_be_indexed(tmp_path, encoder, stub):
    from retroclip.pairs import Pair

    memory = Memory.create(tmp_path / "m", encoder, [Pair(f"{i}", stub.photo(i)) for i in range(5)])
    memory.index("hnsw")
    assert memory.search(torch.ones(16), by="text", k=3).ids.tolist() == [[-1, -1, -1]]
    assert (memory.search(torch.ones(16), k=3).ids >= 0).all()
