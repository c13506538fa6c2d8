"""Random neighbours in place of found ones."""

import numpy as np
import pytest
import torch

import retroclip
from retroclip.errors import RetroclipError
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.robustness import CorruptedMemory
from retroclip.fusion import MeanFusion, MemoryEncoder
from retroclip.tasks import Task


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_random_pairs(make_memory, share):
    rng = np.random.default_rng(0)
    memory = make_memory(rng.normal(size=(500, 8)), rng.normal(size=(500, 8)))
    queries = memory.embeddings(of="image")[:40]
    plain, corrupted = (m.search(queries, by="image", k=10) for m in (memory, CorruptedMemory(memory, share)))
    same = (plain.ids == corrupted.ids).mean(axis=1)
    np.testing.assert_allclose(same, 1 - share, atol=0.11)
    cosines = (queries[:, None] * memory.embeddings(corrupted.ids.ravel()).reshape(40, 10, 8)).sum(-1)
    torch.testing.assert_close(torch.tensor(corrupted.scores), cosines, atol=1e-5, rtol=0)
    again = CorruptedMemory(memory, share).search(queries, by="image", k=10)
    np.testing.assert_array_equal(again.ids, corrupted.ids)


def test_random_pairs_are_among_those_that_are_asked_for_and_have_a_text(make_memory):
    rng = np.random.default_rng(0)
    memory = make_memory(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)))
    queries, half = memory.embeddings(of="image"), memory.ids()[:30]
    memory.matching, memory.has_text = lambda where: half, lambda: np.arange(60) % 2 == 0
    hits = CorruptedMemory(memory, 1.0).search(queries, by="image", k=10, where="ROWS")
    assert set(hits.ids.ravel()) == set(range(0, 30, 2))


def test_random_neighbours_cost_accuracy(encoder, task, dataset, memory):
    model = MemoryEncoder(encoder, memory, MeanFusion(8, weight=0.7), k=10)
    result = run_protocol("corrupted-neighbours", model, task, dataset, options={"share": 0.9})
    assert result.metrics["top1 at 0"] > result.metrics["top1 at 1"] + 0.1
    assert result.value == result.metrics["top1 at 0.9"] and result.memory == "brute"
    assert result.baselines["top1"] == retroclip.evaluate(encoder, task, dataset, resamples=0).value
    with pytest.raises(RetroclipError, match="consults a memory"):
        run_protocol("corrupted-neighbours", encoder, task, dataset)
    with pytest.raises(RetroclipError, match="between 0 and 1"):
        run_protocol("corrupted-neighbours", model, task, dataset, options={"share": 2})


def test_harmonic_mean_of_seen_and_unseen(encoder, dataset):
    from statistics import harmonic_mean as independent

    from sklearn.metrics import accuracy_score

    task = Task("shapes", classes=["circle", "square", "star", "cross"], novel=["star", "cross"])
    result = run_protocol("entities", encoder, task, dataset)
    outcome = result.outcomes[0]
    halves = [outcome.labels < 2, outcome.labels >= 2]
    accuracies = [accuracy_score(outcome.labels[rows], outcome.predicted[rows]) for rows in halves]
    assert [result.metrics["seen"], result.metrics["unseen"]] == pytest.approx(accuracies)
    assert result.value == pytest.approx(independent(accuracies))
    assert result.interval[0] <= result.value <= result.interval[1]
    with pytest.raises(RetroclipError, match="names no unseen"):
        run_protocol("entities", encoder, Task("shapes", classes=task.classes), dataset)
