from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize

from retroclip.errors import TaskError
from retroclip.retrieval import retrieve
from retroclip.retrieval.cover import covering_per_class, facility_location
from retroclip.retrieval.found import Candidate


def unit(rows, seed=0):
    return normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def value(similarity, relevance, chosen, weight):
    """The objective, cell by cell."""
    covered = sum(max(max(0.0, float(similarity[i, j])) for j in chosen) for i in range(len(similarity)))
    return covered + weight * sum(float(relevance[j]) for j in chosen)


def test_greedy_steps_are_the_best_ones_and_near_the_best_set():
    rows, relevance = unit(9), torch.rand(9, generator=torch.Generator().manual_seed(1))
    similarity = rows @ rows.T
    chosen = facility_location(similarity, relevance, 3, weight=0.5).tolist()
    for step in range(3):
        before = chosen[:step]
        best = max(set(range(9)) - set(before), key=lambda j: value(similarity, relevance, [*before, j], 0.5))
        assert chosen[step] == best
    optimum = max(value(similarity, relevance, list(own), 0.5) for own in combinations(range(9), 3))
    assert value(similarity, relevance, chosen, 0.5) >= (1 - 1 / 2.718281828) * optimum


def test_repeats_are_taken_last_and_relevance_decides_among_equals():
    rows = torch.eye(6)[[0, 0, 0, 1, 2]]
    relevance = torch.tensor([0.1, 0.3, 0.2, 0.0, 0.0])
    assert facility_location(rows @ rows.T, relevance, 3).tolist()[0] == 1
    assert set(facility_location(rows @ rows.T, relevance, 3).tolist()) == {1, 3, 4}
    assert sorted(facility_location(rows @ rows.T, relevance, 9).tolist()) == list(range(5))


def test_every_class_gets_its_share_in_the_given_order():
    rows = unit(20)

    class Memory:
        def embeddings(self, ids, *, of):
            assert of == "image"
            return rows[torch.tensor(ids)]

    candidates = [Candidate(i, (i % 2,), 0.5, i // 2, ("t2t",)) for i in range(20)]
    kept = covering_per_class(Memory(), candidates, 4)
    assert [c.id for c in kept] == sorted(c.id for c in kept)
    assert [sum(c.classes[0] == own for c in kept) for own in (0, 1)] == [4, 4]
    even = [c.id for c in candidates if c.classes[0] == 0]
    relevance = 1 - torch.arange(10) / 9
    expected = facility_location(rows[even] @ rows[even].T, relevance, 4)
    assert {c.id for c in kept if c.classes[0] == 0} == {even[i] for i in expected.tolist()}


def test_retrieve_takes_it_by_name(memory, task, encoder):
    everything = retrieve(memory, task, encoder=encoder, k=23)
    found = retrieve(memory, task, encoder=encoder, k=23, max_per_class=2, selection="cover")
    assert set(found.ids) <= set(everything.ids)
    assert found.label.bincount().max() <= 2 and found.provenance["selection"] == "cover"
    with pytest.raises(TaskError, match="a selection is rank or cover"):
        retrieve(memory, task, encoder=encoder, selection="random")
