"""Memories made from sets that were embedded once, and the comparisons of systems on them."""

import importlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import retroclip
from retroclip.methods import get_method
from retroclip.tasks import Task


@pytest.mark.parametrize("condition", ["in-domain", "half-wrong", "general"])
def test_a_memory_from_embedded_sets_is_the_one_that_embeds_all(memories, data, tiny_model, tmp_path, condition):
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    sources = memories.Sources(data, encoder, tmp_path / "work")
    quick = sources.memory(task, condition)
    pairs = memories.memory_pairs(data, task, "flower_photos", condition)
    plain = retroclip.Memory.create(tmp_path / "plain", encoder, [pairs])
    columns = ["key", "image", "caption", "captions", "source"]
    assert quick.take(quick.ids(), columns).to_pylist() == plain.take(plain.ids(), columns).to_pylist()
    for of in ("image", "text"):
        torch.testing.assert_close(quick.embeddings(of=of), plain.embeddings(of=of), rtol=0, atol=2e-3)  # fp16
    assert sources.seconds["embedding"] > 0


def test_nothing_is_embedded_twice(memories, data, tiny_model, tmp_path, monkeypatch):
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    memories.Sources(data, encoder, tmp_path).memory(task, "in-domain")
    monkeypatch.setattr(encoder, "encode_images", lambda *args, **given: pytest.fail("embedded again"))
    sources = memories.Sources(data, encoder, tmp_path)
    assert len(sources.memory(task, "in-domain")) == len(sources.memory(task, "half-wrong")) == 18


def test_half_of_the_captions_are_wrong_and_half_of_the_pairs_unrelated(memories, data):
    task = Task.load("flower-photos")
    names = memories.ClassNames(task)
    for condition, named in (("in-domain", 9), ("half-wrong", 5), ("general", 0)):
        pairs = memories.memory_pairs(data, task, "flower_photos", condition)
        assert sum(bool(names.found_in(pair.captions)) for pair in pairs) == named


@pytest.fixture
def measured(memories, data, tiny_model, tmp_path, monkeypatch):
    """`measure` of systems.py on flowers, with the comparisons it made in `asked` and what it stores."""
    systems = importlib.import_module("systems")
    monkeypatch.setattr(systems, "RESULTS", tmp_path / "results")
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    asked, plain = [], systems.compare
    monkeypatch.setattr(systems, "compare", lambda *args, **given: asked.append(1) or plain(*args, **given))

    def measure(methods=("zero-shot", "primed", "mean-neighbours"), *, data=data, task=task, work="work", seeds=(0,)):
        samples = systems.load_samples(task, f"{data / 'flower_photos'}.parquet#val")
        sources = memories.Sources(data, encoder, tmp_path / work)
        results = systems.measure(sources, task, samples, "in-domain", methods, seeds)
        stored = systems.load_results(tmp_path / "results" / "flower-photos-in-domain.json")
        return [r.method for r in results], [r.method for r in stored], len(asked)

    return measure


def test_systems_are_measured_again_where_memory_data_or_templates_are_others(measured, data, tmp_path):
    every = ["zero-shot", "primed", "mean-neighbours"]
    assert measured() == (every, every, 1)
    assert measured() == (every, every, 1), "what is stored was measured again"
    whole = pq.read_table(data / "flower_photos.parquet")
    task = Task.load("flower-photos")
    for number, part in enumerate((slice(0, -1), slice(1, None))):  # an evaluated image less, then a pair less
        own = shutil.copytree(data, tmp_path / f"data {number}")
        pq.write_table(pa.Table.from_pylist(whole.to_pylist()[part]), own / "flower_photos.parquet")
        assert measured(data=own, work=f"work {number}")[2] == 2 + 2 * number
        assert measured()[2] == 3 + 2 * number
    assert measured(task=task.model_copy(update={"templates": ["{}."]}))[2] == 6


def test_a_stored_comparison_gives_way_to_none_of_fewer_methods_or_seeds(measured):
    every, fewer = ["zero-shot", "primed", "real-linear"], ["zero-shot", "real-linear"]
    assert measured(every, seeds=(0, 1)) == (every, every, 1)
    assert measured(["real-linear"], seeds=(0, 1)) == (fewer, every, 1), "stored rows do"
    assert measured(every) == (every, every, 2)
    assert measured(every, seeds=(0, 1))[2] == 2, "a stored file of two seeds gave way to one"
    more = ["zero-shot", "primed", "tip-adapter", "real-linear"]
    assert measured(["tip-adapter"], seeds=(0, 1)) == (["zero-shot", "tip-adapter"], more, 3), "a method didn't join"
    assert measured(more, seeds=(0, 1)) == (more, more, 3)


def test_what_was_trained_is_measured_again_only_beside_another_control(measured, monkeypatch):
    systems, first = importlib.import_module("systems"), ["zero-shot", "primed", "real-linear"]
    asked, plain = [], systems.compare

    def values(**chosen):
        def compare(*args, methods, **given):
            asked.append(list(methods))
            results = plain(*args, methods=methods, **given)
            return [result.model_copy(update={"value": chosen.get(result.method, 0.5)}) for result in results]

        monkeypatch.setattr(systems, "compare", compare)

    assert measured(first)[0] == first
    values(**{"tip-x": 0.4})
    assert measured([*first, "tip-x"])[0] == [*first, "tip-x"]
    values(**{"tip-adapter": 0.9})
    assert measured([*first, "tip-adapter"])[0] == [*first, "tip-adapter"]
    untrained = ["zero-shot", "primed", "tip-adapter", "tip-x"]
    assert asked == [["zero-shot", "primed", "tip-x"], untrained, [*untrained, "real-linear"]]


def test_a_row_that_joins_is_compared_with_what_is_stored_and_stored_rows_with_what_joins(measured, monkeypatch):
    systems, plain = importlib.import_module("systems"), importlib.import_module("systems").compare

    def compare(*args, methods, **given):
        marked = {"primed": 0.5, "tip-adapter": 0.9}
        monkeypatch.setattr("retroclip.evaluation.comparison.summarise", lambda *own, method, **options: summarise(
            *own, method=method, **options).model_copy(update={"value": marked.get(method, 0.1)}))  # fmt: skip
        return plain(*args, methods=methods, **given)

    summarise = importlib.import_module("retroclip.evaluation.comparison").summarise
    monkeypatch.setattr(systems, "compare", compare)

    def controls():
        stored = systems.load_results(systems.RESULTS / "flower-photos-in-domain.json")
        return {result.method: result.control for result in stored if get_method(result.method).trained}

    measured(["zero-shot", "primed"])
    measured(["real-linear"])
    assert controls() == {"real-linear": "primed"}, "a row joined without the control that is stored"
    measured(["tip-adapter"])
    assert controls() == {"real-linear": "tip-adapter"}, "a stored row kept a control that isn't the best any more"
