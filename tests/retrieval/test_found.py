"""Union, ranks, best classes and filters against loops."""

import numpy as np
import pytest
import torch

from retroclip.retrieval.filters import clip_scores, distinct, near_any, well_matched
from retroclip.retrieval.found import best_per_class, collected, merged


@pytest.fixture
def hits():
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(12)[:5] for _ in range(8)])
    ids[3, 3:] = -1
    return ids, rng.random((8, 5)).astype(np.float32), np.array([0, 0, 1, 1, 2, 2, 3, 3])


def test_collected_keeps_the_best_score_of_each_row_and_class(hits):
    ids, scores, class_of = hits
    best: dict[tuple[int, int], float] = {}
    for query in range(8):
        for row, score in zip(ids[query], scores[query], strict=True):
            if row >= 0:
                pair = (int(row), int(class_of[query]))
                best[pair] = max(best.get(pair, -1.0), float(score))
    finds = collected(ids, scores, class_of)
    assert {(int(r), int(c)): float(s) for r, c, s in zip(finds.rows, finds.classes, finds.scores, strict=True)} == best
    for row, cls, rank in zip(finds.rows, finds.classes, finds.ranks, strict=True):
        ranked = sorted((r for r, c in best if c == cls), key=lambda r, c=cls: (-best[r, c], r))
        assert ranked[rank] == row


def test_text_finds_come_before_image_finds():
    t2t = collected(np.array([[5], [5], [6]]), np.array([[0.7], [0.8], [0.9]], np.float32), np.array([0, 1, 2]))
    t2i = collected(np.array([[5], [7]]), np.array([[0.95], [0.2]], np.float32), np.array([2, 0]))
    five, six, seven = merged({"t2t": t2t, "t2i": t2i})
    assert (five.id, five.classes, five.modes) == (5, (1, 0, 2), ("t2t", "t2i"))
    assert five.score == pytest.approx(0.8)
    assert (six.classes, six.modes, six.rank) == ((2,), ("t2t",), 0)
    assert (seven.classes, seven.modes) == ((0,), ("t2i",))


def test_class_limit_lets_modes_take_turns():
    t2t = collected(np.array([[0, 1, 2]]), np.array([[0.9, 0.8, 0.7]], np.float32), np.array([0]))
    t2i = collected(np.array([[3, 4, 5]]), np.array([[0.3, 0.2, 0.1]], np.float32), np.array([0]))
    kept = best_per_class(merged({"t2t": t2t, "t2i": t2i}), 3)
    assert [candidate.id for candidate in kept] == [0, 1, 3]


def test_nothing_found():
    nothing = collected(np.full((2, 3), -1), np.full((2, 3), -np.inf, np.float32), np.array([0, 1]))
    assert merged({"t2t": nothing}) == []


def test_filters_against_loops():
    rows = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    others = rows[:4] + 0.05
    others = torch.nn.functional.normalize(others, dim=1)
    near = [any(float(row @ other) > 0.95 for other in others) for row in rows]
    assert near_any(rows, others, 0.95, step=7).tolist() == near
    assert not near_any(rows, others[:0], 0.95).any()
    kept: list[int] = []
    for i in range(50):
        if all(float(rows[i] @ rows[j]) <= 0.95 for j in kept):
            kept.append(i)
    for step in (1, 7, 100):
        assert distinct(rows, 0.95, step=step).nonzero().flatten().tolist() == kept


def test_clip_score_filter():
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    scores = clip_scores(images, texts)
    assert scores[:2].tolist() == pytest.approx([1.0, 0.6])
    assert scores[2].isnan()
    assert well_matched(scores, 0.7).tolist() == [True, False, True]
    assert well_matched(scores[2:], "quantile").tolist() == [True]
    many = torch.arange(1000.0)
    assert int((~well_matched(many, "quantile")).sum()) == 65
    with pytest.raises(ValueError, match="quantile"):
        well_matched(scores, "half")
