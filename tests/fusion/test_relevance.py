"""Relevance against loops and by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from retroclip.fusion import MeanFusion, MemoryEncoder
from retroclip.fusion.relevance import Density, as_relevant, relevance


def test_relevance_is_the_written_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, usual = torch.rand(5, 3, generator=generator), torch.rand(5, 3, generator=generator)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]).bool()
    found = relevance(scores, usual, 0.1, 0.5, mask)
    for row in range(5):
        there = [j for j in range(3) if mask[row, j]]
        if not there:
            assert found[row] == 0
            continue
        short = sum(float(scores[row, j] - usual[row, j]) for j in there) / len(there)
        assert float(found[row]) == pytest.approx(math.exp(0.5 * min(0.0, short / 0.1)), rel=1e-5)


def test_what_is_as_near_as_usual_counts_fully_and_what_is_far_hardly() -> None:
    usual = torch.full((1, 4), 0.8)
    assert relevance(usual, usual, 0.05, 0.5).item() == 1
    assert relevance(usual + 0.1, usual, 0.05, 0.5).item() == 1
    assert relevance(usual - 0.5, usual, 0.05, 0.5).item() < 0.01


def test_as_relevant_goes_from_the_query_to_the_refined_embedding() -> None:
    query, refined = torch.eye(4)[:3], torch.eye(4)[1:]
    mixed = as_relevant(query, refined, torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(mixed[:2], torch.stack([query[0], refined[1]]))
    torch.testing.assert_close(mixed[2], (query[2] + refined[2]) / math.sqrt(2))


def test_density_is_the_mean_cosine_to_the_nearest_others_searched_once(memory) -> None:
    encoder = MemoryEncoder(SimpleNamespace(name="b", dim=16), memory, MeanFusion(16), k=4, relevance=0.5)
    with_text = np.flatnonzero(memory.has_text())
    images = memory.parts["image"]
    cosines = images @ images.T
    for row in (0, 7):
        others = [cosines[row, j].item() for j in with_text if j != row and cosines[row, j] <= 0.95]
        expected = sum(sorted(others)[-4:]) / 4
        assert encoder.density.usual("image", np.array([[100 + row, -1]])).tolist() == [[pytest.approx(expected), 0.0]]
    before = memory.searches
    encoder.density.usual("image", np.array([[100, 107]]))
    assert memory.searches == before


def test_spread_is_the_deviation_over_the_memorys_own_pairs() -> None:
    scores = {1: [0.9, 0.7], 2: [0.9, 0.5], 3: [0.7, 0.5]}
    ids = {1: [2, 3], 2: [1, 3], 3: [1, 2]}
    means = {row: sum(own) / 2 for row, own in scores.items()}

    def search(rows, side):
        return torch.tensor([scores[row] for row in rows.tolist()]), np.array([ids[row] for row in rows.tolist()])

    short = [means[row] - sum(means[other] for other in ids[row]) / 2 for row in (1, 2, 3)]
    assert Density(np.array([1, 2, 3]), search).spread("image") == pytest.approx(np.std(short), rel=1e-5)


def test_a_query_far_from_the_memory_stays_as_it_is(make_memory) -> None:
    generator = torch.Generator().manual_seed(0)
    near_one = torch.nn.functional.normalize(torch.eye(16)[0] + 0.1 * torch.randn(30, 16, generator=generator), dim=1)
    memory = make_memory(near_one, near_one.roll(1, dims=1))
    base = SimpleNamespace(name="b", dim=16)
    query = torch.stack([near_one.mean(0) / near_one.mean(0).norm(), torch.eye(16)[5]])
    plain = MemoryEncoder(base, memory, MeanFusion(16), k=4).refine(query, "image")
    refined = MemoryEncoder(base, memory, MeanFusion(16), k=4, relevance=0.5).refine(query, "image")
    torch.testing.assert_close(refined[0], plain[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(refined[1], query[1], atol=1e-2, rtol=0)
    assert (plain[1] - query[1]).norm() > 0.3
