"""Exact search in every number format and place, and the candidates that it goes by."""

import numpy as np
import pytest
import torch

from retroclip.memory import exact as exact_module
from retroclip.memory.candidates import Candidates
from retroclip.memory.exact import block_topk, coarse_search, exact_search, positions_of
from retroclip.memory.rows import ChosenRows, HalfRows, HeldRows, JoinedRows, chunks
from retroclip.memory.search import best_of


def unit(count: int, seed: int, dim: int = 24) -> torch.Tensor:
    rows = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


def brute(queries: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.double() @ rows.double().T
    best = scores.topk(min(k, len(rows)), dim=1)
    return best.indices.numpy(), best.values.numpy()


@pytest.mark.parametrize(("rows", "k"), [(1000, 3), (1023, 1), (64, 5), (5, 5), (2561, 10)])
def test_top_by_blocks_equals_topk(rows, k):
    scores = torch.from_numpy(np.random.default_rng(rows).standard_normal((20, rows)).astype(np.float32))
    scores[0, : rows - k] = -torch.inf
    values, places = block_topk(scores, k)
    wanted = scores.topk(k, dim=1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(scores.gather(1, places), wanted.values)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("count", [7, 3000, 40_000])
def test_bfloat16_search_is_exact(count):
    rows = HalfRows(unit(count, 1).half())
    true = rows.gather(np.arange(count))
    close = torch.nn.functional.normalize(true[:7] + 1e-3 * unit(7, 2), dim=1)  # many scores near 1
    queries = torch.cat([unit(40, 3), close])
    ids = np.arange(count) * 2 + 1
    found, scores = coarse_search(queries, rows, ids, 10)
    places, values = brute(queries, true, 10)
    width = places.shape[1]
    np.testing.assert_allclose(scores[:, :width], values, atol=1e-6)
    assert (found[:, :width] == ids[places]).mean() > 0.999  # but for equal scores
    assert (found[:, width:] == -1).all()


def test_bfloat16_search_is_exact_among_near_duplicates():
    """Thousands of rows nearer to each other than bfloat16 can tell."""
    rows = HalfRows((unit(1, 1) + 0.002 * unit(5000, 2)).half())
    true = rows.gather(np.arange(5000))
    _, scores = coarse_search(true[:16], rows, np.arange(5000), 10)
    np.testing.assert_allclose(scores, brute(true[:16], true, 10)[1], atol=1e-6)


def test_bfloat16_search_bounds_rows_of_any_length_and_rounding():
    """Rows of other norms than one, and ones all of whose numbers lie as far as can be from a bfloat16."""
    lengths = torch.from_numpy(np.random.default_rng(8).uniform(0.5, 4, (3000, 1)).astype(np.float32))
    for true in (unit(3000, 6) * lengths, torch.full((3000, 24), 1 + 2.0**-8) + 1e-6 * unit(3000, 7)):
        queries = true[:20] * 2
        found, scores = coarse_search(queries, HeldRows(true), np.arange(3000), 10)
        _, values = brute(queries, true, 10)
        np.testing.assert_allclose(scores, values, rtol=1e-6)
        exact = (queries.double()[:, None] * true.double()[torch.from_numpy(found)]).sum(dim=2)
        np.testing.assert_allclose(exact, values, rtol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("count", "asked"), [(5, 300), (300, 300), (5000, 3), (5000, 20), (5000, 70), (5000, 300)])
def test_every_way_to_search_held_rows_is_exact(monkeypatch, fast, count, asked):
    monkeypatch.setattr(exact_module, "fast_bf16", lambda: fast)
    rows, queries = HeldRows(unit(count, 9)), unit(asked, 10)
    ids = np.arange(count) * 3
    for _ in range(2):  # a second time with what the first one made
        found, scores = exact_search(queries, rows, ids, 10)
        places, values = brute(queries, rows.matrix, 10)
        width = places.shape[1]
        np.testing.assert_allclose(scores[:, :width], values, atol=1e-6)
        assert (found[:, :width] == ids[places]).mean() > 0.999
        assert (found[:, width:] == -1).all() and np.isneginf(scores[:, width:]).all()


def test_search_in_pieces_equals_search_at_once(monkeypatch):
    """Rows from several places, in chunks, with exclusions; in float32."""
    monkeypatch.setattr(exact_module, "fast_bf16", lambda: False)
    monkeypatch.setattr(exact_module, "chunks", lambda count: chunks(count, 100))
    rows = unit(500, 4).half()
    joined = JoinedRows(
        ChosenRows(HalfRows(rows), np.arange(0, 300, 2)), HeldRows(HalfRows(rows).gather(np.arange(300, 500)))
    )
    kept = np.r_[np.arange(0, 300, 2), np.arange(300, 500)]
    true = HalfRows(rows).gather(kept)
    assert torch.equal(joined.gather(np.arange(350)), true)
    queries = unit(9, 5)
    own = [kept[i : i + 3] for i in range(9)]
    for exclude, hidden in [(None, None), (None, kept[:40]), (own, None), (own, kept[::3])]:
        found, scores = exact_search(queries, joined, kept, 7, exclude, hidden)
        wanted, values = exact_search(queries, true, kept, 7, exclude, hidden)
        assert np.array_equal(found, wanted)
        assert not np.isin(found, [] if hidden is None else hidden).any()
        np.testing.assert_allclose(scores, values, atol=1e-6)


@pytest.mark.parametrize("integers", [False, True])
def test_candidates_in_any_pieces_are_the_best(integers):
    generator = np.random.default_rng(6)
    scores = torch.from_numpy(generator.standard_normal((12, 4000)).astype(np.float32))
    if integers:
        scores = (scores * 1e6).to(torch.int32)
    collected = Candidates(12, 8)
    for number, places in enumerate(np.split(np.arange(4000), [3, 1500, 2600])):
        for of in (torch.arange(0, 12, 2), torch.arange(1, 12, 2)):
            collected.offer(of, scores[of][:, places], torch.from_numpy(places))
        if number != 1:
            collected.settle()
    of, places, values = collected.settle()
    best = scores.topk(8, dim=1)
    assert of.tolist() == np.repeat(np.arange(12), 8).tolist()
    assert torch.equal(values, best.values.flatten().float())
    assert torch.equal(scores[of, places].float(), values)


def test_positions_and_best():
    ids = np.array([2, 5, 9])
    assert positions_of(np.array([9, 1, 2, 11]), ids).tolist() == [2, 0]
    assert positions_of(np.array([3]), ids[:0]).tolist() == []
    found = np.array([[4, 7, 2, -1]])
    scores = np.array([[0.1, 0.9, 0.5, -np.inf]], np.float32)
    best, values = best_of(found, scores, 3, [np.array([7])])
    assert best.tolist() == [[2, 4, -1]]
    assert values[0, :2].tolist() == pytest.approx([0.5, 0.1])
