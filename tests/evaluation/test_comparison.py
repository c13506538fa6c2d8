"""compare(): one table from any registered methods, over a toy memory."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from retroclip import methods as registry
from retroclip import training
from retroclip.classifiers import LinearClassifier, zero_shot
from retroclip.errors import MemoryStoreError, RetroclipError, TaskError
from retroclip.evaluation import compare, evaluate, load_samples, save_results
from retroclip.evaluation.classification import answer
from retroclip.evaluation.comparison import prepare_context
from retroclip.evaluation.leakage import without
from retroclip.fusion import MeanFusion, MemoryEncoder, build_fusion
from retroclip.pairs import LabelledSet
from retroclip.tasks import Task
from retroclip.training.tuning import TUNINGS


@pytest.fixture
def calls():
    return []


@pytest.fixture
def toy_methods(monkeypatch, calls, make_encoder):
    """A registry of toys: a fixed head, a trained one, one that customizes the encoder, two that fail."""
    monkeypatch.setattr(registry.registry, "_REGISTRY", {"zero-shot": registry.get_method("zero-shot")})

    @registry.register_method("noisy", trained=True)
    def _noisy(context):
        calls.append(("noisy", context.seed))
        head = zero_shot(context.encoder, context.task)
        noise = np.random.default_rng(context.seed).normal(scale=0.2, size=tuple(head.weights.shape))
        model = LinearClassifier("noisy", context.encoder, context.task.classes, head.weights + noise.astype("float32"))
        model.trained_parameters = model.weights.numel()
        model.history = [{"step": s, "loss": 1 / s} for s in range(1, 4)]
        return model

    @registry.register_method("turned")
    def _turned(context):
        calls.append(("turned", context.seed))
        return make_encoder("turned", turn=2.0)

    @registry.register_method("refused")
    def _refused(context):
        raise RetroclipError("give it something to eat")

    @registry.register_method("broken")
    def _broken(context):
        return {}["no such key"]


def test_rows_come_in_order_with_gains_and_costs(toy_methods, encoder, task, dataset, memory, calls):
    rows = compare(encoder, task, dataset, memory, methods=["noisy", "turned"])
    assert [row.method for row in rows] == ["zero-shot", "noisy", "turned"]
    base, noisy, turned = rows
    assert base.value == evaluate(encoder, task, dataset).value
    assert base.gain is None
    assert calls == [("noisy", 0), ("noisy", 1), ("noisy", 2), ("turned", 0)]
    values = [outcome.value("top1") for outcome in noisy.outcomes]
    assert noisy.value == pytest.approx(np.mean(values))
    assert noisy.sd == pytest.approx(np.std(values, ddof=1))
    assert noisy.gain == pytest.approx(100 * (noisy.value - base.value))
    assert noisy.gain_interval[0] <= noisy.gain <= noisy.gain_interval[1]
    assert (noisy.seeds, noisy.trained_parameters, len(noisy.history)) == ([0, 1, 2], 32, 3)
    assert turned.value < base.value
    assert turned.gain_interval[1] < 0
    assert all(row.memory_pairs == 200 for row in rows)


def test_training_is_measured_against_the_best_that_trains_nothing(toy_methods, encoder, task, dataset, memory):
    rows = {row.method: row for row in compare(encoder, task, dataset, memory, methods=["turned", "noisy"])}
    noisy, turned = rows["noisy"], rows["turned"]
    assert (noisy.control, turned.control) == ("turned", None)
    assert noisy.control_gain == pytest.approx(100 * (noisy.value - turned.value))
    assert noisy.control_gain_interval[0] <= noisy.control_gain <= noisy.control_gain_interval[1]


def test_images_are_embedded_once_for_all_methods_on_the_base(toy_methods, encoder, task, dataset, memory):
    compare(encoder, task, dataset, memory, methods=["noisy"])
    assert encoder.images_encoded == len(dataset)


def test_failures_become_rows(toy_methods, encoder, task, dataset, memory, caplog):
    with caplog.at_level(logging.WARNING):
        rows = compare(encoder, task, dataset, memory, methods=["refused", "broken", "turned"])
    assert [row.method for row in rows] == ["zero-shot", "refused", "broken", "turned"]
    assert rows[1].error == "give it something to eat"
    assert rows[2].error == "KeyError: 'no such key'"
    assert rows[1].value is None
    assert rows[3].error is None
    assert "broken" in caplog.text
    assert "refused" not in caplog.text
    json.dumps([row.model_dump(mode="json") for row in rows], allow_nan=False)


def test_patterns_and_unknown_names(toy_methods, encoder, task, dataset, memory):
    rows = compare(encoder, task, dataset, memory, methods=["*ed", "turned"], seeds=[0])
    assert [row.method for row in rows] == ["zero-shot", "turned", "refused"]
    with pytest.raises(RetroclipError, match=r"no method is called 'nosuch': choose from zero-shot, noisy"):
        compare(encoder, task, dataset, memory, methods=["nosuch"])


def test_data_faults_stop_the_whole_comparison(toy_methods, encoder, dataset, memory, monkeypatch):
    with pytest.raises(TaskError, match="'star'"):
        compare(encoder, Task("t", classes=["circle", "square", "cross"]), dataset, memory)

    def refuse(encoder):
        raise MemoryStoreError("another model's")

    monkeypatch.setattr(memory, "check_encoder", refuse)
    with pytest.raises(MemoryStoreError, match="another model"):
        compare(encoder, Task("t", classes=["circle", "square", "star", "cross"]), dataset, memory)


def test_near_duplicates_are_hidden_from_methods_and_counted(toy_methods, encoder, task, dataset, make_memory):
    images = encoder.encode_images(dataset.images)
    far = np.eye(8)[[4, 5, 6]]
    memory = make_memory(np.vstack([far, images[:40].numpy()]), np.vstack([far, images[:40].numpy()]))
    near = ((memory.images @ images.T) > 0.95).any(1).numpy()
    samples = load_samples(task, dataset)
    context = prepare_context(encoder, task, samples, memory)
    assert (context.excluded_ids == np.flatnonzero(near)).all()
    assert len(context.excluded_ids) >= 40
    assert len(context.memory) == len(memory) - near.sum()
    hits = context.memory.search(images, by="image", k=5, exclude=[np.array([0])] * len(images))
    assert not np.isin(hits.ids, [0, *context.excluded_ids]).any()
    assert len(context.memory.embeddings(of="text")) == len(context.memory.has_text()) == len(context.memory)
    rows = compare(encoder, task, samples, memory, methods=["turned"])
    assert {row.excluded_near_duplicates for row in rows} == {int(near.sum())}


def test_near_duplicates_of_the_other_sets_are_hidden_too(toy_methods, encoder, task, dataset, make_memory):
    columns = dataset.keys, dataset.images, dataset.labels
    half = [LabelledSet("half", "all", *(column[start::2] for column in columns)) for start in (0, 1)]
    images = encoder.encode_images(dataset.images)
    memory = make_memory(np.vstack([np.eye(8)[[4, 5, 6]], images]), np.vstack([np.eye(8)[[4, 5, 6]], images]))
    near = ((memory.images @ images.T) > 0.95).any(1).numpy().sum()
    seen = []

    @registry.register_method("looking")
    def _looking(context):
        seen.append(len(context.memory))
        return context.encoder

    rows = compare(encoder, task, half[0], memory, methods=["looking"], also=[(task, half[1])])
    assert seen == [len(memory) - near]
    assert {row.excluded_near_duplicates for row in rows} == {near}


def test_what_a_consulted_memory_holds_of_the_evaluation_set_is_hidden(
    toy_methods, encoder, task, dataset, make_memory
):
    images, texts = encoder.encode_images(dataset.images), encoder.encode_texts(dataset.labels)
    own, labels = draw_memory(200)
    memory = make_memory(np.vstack([own, images]), np.vstack([np.eye(8)[labels] + 0.05, texts]))
    near = np.flatnonzero(((memory.images @ images.T) > 0.95).any(1).numpy())
    leaking = MemoryEncoder(encoder, memory, build_fusion("mean", dim=8), k=5)
    clean = evaluate(leaking.with_memory(without(memory, near)), task, dataset)
    assert answer(leaking, task, load_samples(task, dataset)).outcome.value("top1") > clean.value
    encoder.images_encoded = 0
    (compared,) = compare(leaking, task, dataset, None, methods=["zero-shot"])
    assert encoder.images_encoded == len(dataset)
    for result in (compared, evaluate(leaking, task, dataset), evaluate(zero_shot(leaking, task), task, dataset)):
        assert result.value == clean.value
        assert (result.memory, result.memory_pairs) == ("brute", len(memory))
        assert (result.excluded_near_duplicates, result.near_threshold) == (len(near), 0.95)
        assert result.fingerprint == leaking.fingerprint
    assert evaluate(encoder, task, dataset).memory is None


def draw_memory(n):
    """Embeddings of n pairs around the classes, and the class indices."""
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=n)
    return np.eye(8)[labels] * 0.6 + rng.normal(scale=0.2, size=(n, 8)), labels


def test_forgetting_is_told_for_encoders_beside_their_base(toy_methods, encoder, task, dataset, memory):
    other = Task("two", classes=["circle", "square"])
    rows_of_two = [i for i, label in enumerate(dataset.labels) if label in other.classes]
    few = LabelledSet(
        "two", "all", *([column[i] for i in rows_of_two] for column in (dataset.keys, dataset.images, dataset.labels))
    )
    base, noisy, turned = compare(
        encoder, task, dataset, memory, methods=["noisy", "turned"], seeds=[0], also=[(other, few)]
    )
    assert base.forgetting == noisy.forgetting == []
    (row,) = turned.forgetting
    assert row.base == evaluate(encoder, other, few).value
    assert row.value == evaluate(turned_encoder(encoder), other, few).value
    assert row.change == pytest.approx(100 * (row.value - row.base))
    assert row.n == len(few)


def turned_encoder(encoder):
    return type(encoder)("turned", turn=2.0)


def test_finished_runs_are_taken_from_the_cache(toy_methods, encoder, task, dataset, memory, calls, tmp_path):
    options = {"methods": ["noisy", "turned"], "cache": tmp_path, "also": [(task, dataset)]}
    first = compare(encoder, task, dataset, memory, seeds=[0, 1], **options)
    built = len(calls)
    again = compare(encoder, task, dataset, memory, seeds=[0, 1, 2], **options)
    assert calls[built:] == [("noisy", 2)]
    assert again[2].value == first[2].value
    assert again[2].forgetting == first[2].forgetting
    assert again[2].seconds == first[2].seconds
    compare(encoder, task, dataset, memory, seeds=[0], options={"turned": {"x": 1}}, **options)
    assert calls[built + 1 :] == [("noisy", 0), ("turned", 0)]
    save_results(again, tmp_path / "results.json")


def test_the_cache_knows_a_memory_made_anew_at_the_same_path(
    toy_methods, encoder, task, dataset, memory, calls, tmp_path
):
    options = {"methods": ["turned"], "cache": tmp_path}
    compare(encoder, task, dataset, memory, **options)
    compare(encoder, task, dataset, memory, **options)
    assert calls == [("turned", 0)]
    memory.id = "second"
    compare(encoder, task, dataset, memory, **options)
    assert calls == [("turned", 0)] * 2


@pytest.mark.parametrize("changed", ["retrieval", "tuning", "function", "fusion"])
def test_the_cache_knows_the_defaults(
    toy_methods, encoder, task, dataset, memory, calls, tmp_path, monkeypatch, changed
):
    options = {"methods": ["turned"], "cache": tmp_path}
    compare(encoder, task, dataset, memory, **options)
    if changed == "retrieval":
        monkeypatch.setitem(registry.RETRIEVAL, "k", 51)
    elif changed == "tuning":
        monkeypatch.setitem(TUNINGS, "locked-text", replace(TUNINGS["locked-text"], lr=1.0))
    elif changed == "function":
        monkeypatch.setitem(training.customize.__kwdefaults__, "epochs", 6)
    else:
        monkeypatch.setattr(MeanFusion.__init__, "__defaults__", (0.4, ("image",)))
    compare(encoder, task, dataset, memory, **options)
    assert calls == [("turned", 0)] * 2


def test_no_seeds_are_refused(toy_methods, encoder, task, dataset, memory):
    with pytest.raises(RetroclipError, match="no seed"):
        compare(encoder, task, dataset, memory, methods=["noisy"], seeds=range(0))


def test_rows_and_models_are_handed_out_as_they_are_done(toy_methods, encoder, task, dataset, memory):
    rows, models = [], []
    results = compare(
        encoder, task, dataset, memory, methods=["noisy", "turned"], seeds=[0, 1],
        on_result=rows.append, on_model=lambda *given: models.append(given[:2]),
    )  # fmt: skip
    assert rows == results
    assert models == [("zero-shot", 0), ("noisy", 0), ("noisy", 1), ("turned", 0)]


def test_an_encoder_that_consults_the_memory_refines_the_shared_embeddings(toy_methods, encoder, task, dataset, memory):
    @registry.register_method("mean-neighbours")
    def _mean(context):
        return MemoryEncoder(context.encoder, context.memory, build_fusion("mean", dim=8), k=5)

    _, mean = compare(encoder, task, dataset, memory, methods=["mean-neighbours"])
    assert encoder.images_encoded == len(dataset)
    alone = evaluate(MemoryEncoder(encoder, memory, build_fusion("mean", dim=8), k=5), task, dataset)
    assert mean.value == alone.value


def test_a_method_that_needs_a_memory_says_so(toy_methods, encoder, task, dataset):
    rows = compare(encoder, task, dataset, None, methods=["noisy"])
    assert rows[0].value == evaluate(encoder, task, dataset).value
    assert rows[1].error == "method 'noisy' needs a memory: name one with --memory"
