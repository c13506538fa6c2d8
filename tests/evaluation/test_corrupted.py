"""Random neighbours in place of found ones."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

import retroclip
from retroclip.classifiers import LinearClassifier
from retroclip.errors import RetroclipError
from retroclip.evaluation.outcome import Outcome
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
    several = replace(dataset, labels=[], label_sets=[(label,) for label in dataset.labels])
    with pytest.raises(RetroclipError, match="several labels an image: seen and unseen"):
        run_protocol("entities", encoder, task.model_copy(update={"metric": "map"}), several)


def test_entities_are_scored_in_parts_to_the_same_figures(encoder, dataset, monkeypatch):
    task = Task("shapes", classes=["circle", "square", "star", "cross"], novel=["star", "cross"])
    whole = run_protocol("entities", encoder, task, dataset)
    held = []
    score = LinearClassifier.__call__

    def spy(self, embeddings):
        logits = score(self, embeddings)
        held.append(logits.numel())
        return logits

    monkeypatch.setattr(LinearClassifier, "__call__", spy)
    monkeypatch.setattr("retroclip.evaluation.classification.LOGITS", 28)
    monkeypatch.setattr("retroclip.evaluation.bootstrap.CHUNK_DRAWS", 3 * whole.n)
    monkeypatch.setattr(import_module("retroclip.classifiers.zero_shot"), "PROMPTS", 2)
    parts = run_protocol("entities", encoder, task, dataset)
    assert len(held) > 3 and max(held) == 28 and sum(held) == 4 * whole.n
    ours, theirs = parts.outcomes[0], whole.outcomes[0]
    np.testing.assert_array_equal(ours.predicted, theirs.predicted)
    np.testing.assert_allclose(ours.confidence, theirs.confidence, rtol=1e-6)
    assert parts.metrics == whole.metrics and parts.confusions == whole.confusions
    assert ours.top5 == pytest.approx(theirs.top5) and ours.scores is None
    assert parts.interval is not None and parts.interval[0] <= parts.value <= parts.interval[1]


@pytest.mark.parametrize("keep_scores", [True, False])
def test_an_outcome_in_parts_is_the_whole_one(keep_scores):
    rng = np.random.default_rng(0)
    logits, several = rng.normal(size=(23, 9)).astype(np.float32), rng.random((23, 9)) < 0.3
    for labels in (rng.integers(0, 9, 23), several):
        whole = Outcome.from_logits(logits, labels, keep_scores=keep_scores)
        cuts = [slice(0, 5), slice(5, 6), slice(6, 23)]
        joined = Outcome.joined([Outcome.from_logits(logits[c], labels[c], keep_scores=keep_scores) for c in cuts])
        for name in ("labels", "predicted", "correct", "confidence"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
        assert joined.top5 == pytest.approx(whole.top5, nan_ok=True) and joined.n_classes == 9
        assert (joined.scores is None) == (not keep_scores)
        if keep_scores:
            np.testing.assert_array_equal(joined.scores, logits)
