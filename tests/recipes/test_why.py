"""Why methods lose on a memory that knows nothing of the task: the parts of the images, and what each adds."""

import importlib
import json

import numpy as np
import pytest

import retroclip
from retroclip.evaluation.outcome import Outcome
from retroclip.tasks import Task


@pytest.fixture
def recipe(memories):
    return importlib.import_module


def outcome(rng: np.random.Generator, labels: np.ndarray) -> Outcome:
    logits = rng.normal(size=(len(labels), 4)).astype(np.float32)
    return Outcome.from_logits(logits, labels, keep_scores=False)


def test_what_the_parts_add_is_the_gain_of_the_whole(recipe):
    why, rng = recipe("why_general"), np.random.default_rng(0)
    labels = rng.integers(4, size=60)
    base, ours = outcome(rng, labels), [outcome(rng, labels) for _ in range(2)]
    known = recipe("why_evidence").Evidence(
        [(0,), (0, 1), (2,), ()], np.array([True, False, True, False]), rng.integers(4, size=(60, 2))
    )
    for parts in known.parts(labels, 4).values():
        assert sum(rows.astype(int) for rows in parts.values()).tolist() == [1] * 60
        adds = [why.gained(ours, base, "mean-per-class", rows)[0] for rows in parts.values()]
        assert sum(adds) == pytest.approx(why.gained(ours, base, "mean-per-class")[0])
        assert sum(why.right(base, "mean-per-class", rows) for rows in parts.values()) == pytest.approx(
            100 * base.value("mean-per-class")
        )


def test_a_part_is_told_by_the_pairs_of_a_class_and_the_captions_near_an_image(recipe):
    named = [(0,), (0, 1), (2,), ()]
    nearest = np.array([[0, 3], [0, 3], [3, 3], [2, 1]])
    known = recipe("why_evidence").Evidence(named, np.array([True, False, True, False]), nearest)
    pairs, captions = known.parts(np.array([0, 1, 2, 3]), 4).values()
    assert {name: rows.tolist() for name, rows in pairs.items() if rows.any()} == {
        "none": [False, False, False, True],
        "some, none shows it": [False, True, False, False],
        "1 to 9 show it": [True, False, True, False],
    }
    assert captions["name the class"].tolist() == [True, False, False, False]
    assert captions["name other classes only"].tolist() == [False, True, False, True]


def test_what_is_measured_is_stored_and_shown(recipe, memories, data, tiny_model, tmp_path, monkeypatch):
    why, page = recipe("why_general"), recipe("page_why")
    monkeypatch.setattr(why, "RESULTS", tmp_path / "why-general.json")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    encoder = retroclip.load(str(tiny_model(0)), precision="fp32")
    sources = memories.Sources(data, encoder, tmp_path / "work")
    why.measure(sources, Task.load("flower-photos"), "val", ["mean-neighbours"], 1)
    record = json.loads(why.RESULTS.read_text())["flower-photos val"]
    assert record["naming"] == record["named_classes"] == 0 and record["n"] == 11
    captions = record["methods"]["mean-neighbours"]["parts"]["captions of the ten nearest pairs"]
    assert captions["name none"] == record["methods"]["mean-neighbours"]["gain"]
    for table in (page.why_circumstances, page.why_parts, page.why_moved, page.why_classes):
        assert "flower-photos val" in table()
