"""evaluate(): figures from a plain loop, and every refusal."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from retroclip.classifiers import Classifier, zero_shot
from retroclip.errors import ModelError, SourceError, TaskError
from retroclip.evaluation import Result, evaluate, load_results, load_samples, save_results
from retroclip.pairs import LabelledSet
from retroclip.report.notes import shared_notes
from retroclip.tasks import Task


def test_encoder_gets_the_zero_shot_head(encoder, task, dataset):
    result = evaluate(encoder, task, dataset)
    images = encoder.encode_images(dataset.images)
    texts = encoder.encode_texts([f"a photo of a {name}." for name in task.classes])
    predicted = [task.classes[i] for i in (images @ texts.T).argmax(1)]
    right = [p == label for p, label in zip(predicted, dataset.labels, strict=True)]
    assert result.value == result.top1 == pytest.approx(np.mean(right))
    for name in task.classes:
        own = [r for r, label in zip(right, dataset.labels, strict=True) if label == name]
        assert result.per_class[name] == pytest.approx(np.mean(own))
    assert result.interval[0] < result.value < result.interval[1]
    assert (result.n, result.method, result.dataset, result.split) == (120, "zero-shot", "shapes", "val")
    assert result.fingerprint == encoder.fingerprint
    assert {"retroclip", "torch"} <= set(result.versions) or "torch" in result.versions


def test_the_tasks_metric_decides_and_top1_stands_beside_it(encoder, task, dataset):
    result = evaluate(encoder, task.model_copy(update={"metric": "mean-per-class"}), dataset)
    assert result.value == pytest.approx(np.mean(list(result.per_class.values())))
    assert result.top1 == evaluate(encoder, task, dataset).value
    for metric in ("map11", "roc-auc"):
        ranked = evaluate(encoder, task.model_copy(update={"metric": metric}), dataset, resamples=50)
        assert 0.5 < ranked.interval[0] <= ranked.value <= ranked.interval[1] <= 1


def test_images_without_a_label_are_counted(encoder, task, dataset):
    result = evaluate(encoder, task, replace(dataset, skipped=7), resamples=10)
    assert (result.n, result.unlabelled) == (120, 7)
    assert "7 images without a label were left out." in shared_notes([result])


def test_two_runs_give_the_same_figures(encoder, task, dataset):
    first, second = (evaluate(encoder, task, dataset) for _ in range(2))
    assert first.interval == second.interval
    assert first.data_hash == second.data_hash


def test_classifier_is_used_as_it_is(encoder, task, dataset):
    assert evaluate(zero_shot(encoder, task), task, dataset).value == evaluate(encoder, task, dataset).value
    other = zero_shot(encoder, Task("less", classes=task.classes[:3]))
    with pytest.raises(TaskError, match="the 3 classes of the classifier"):
        evaluate(other, task, dataset)


def test_labels_match_by_synonym_case_and_underscore(encoder, task, dataset):
    task = task.model_copy(update={"synonyms": {"star": ["five pointed star"]}})
    renamed = [{"star": "Five_Pointed_Star", "circle": "CIRCLE"}.get(label, label) for label in dataset.labels]
    assert (
        load_samples(task, LabelledSet("s", "val", dataset.keys, dataset.images, renamed)).labels
        == (load_samples(task, dataset).labels)
    ).all()


def test_unknown_labels_are_named(encoder, task, dataset):
    labels = ["hexagon", "dodecagon", *dataset.labels[2:]]
    with pytest.raises(TaskError, match=r"shapes#val has labels .* 'dodecagon', 'hexagon'; add them"):
        evaluate(encoder, task, LabelledSet("shapes", "val", dataset.keys, dataset.images, labels))


def test_empty_set_is_refused(encoder, task):
    with pytest.raises(SourceError, match="no labelled image"):
        evaluate(encoder, task, LabelledSet("shapes", "val", [], [], []))


def test_missing_classes_are_named_and_left_out_of_the_mean(encoder, dataset):
    task = Task("more", classes=["circle", "square", "star", "cross", "arrow"], metric="mean-per-class")
    result = evaluate(encoder, task, dataset)
    assert result.missing_classes == ["arrow"]
    assert "arrow" not in result.per_class
    assert not math.isnan(result.value)


def test_nan_scores_are_refused(encoder, task, dataset):
    class Broken(Classifier):
        def __call__(self, embeddings):
            logits = torch.zeros(len(embeddings), 4)
            logits[3, 1] = torch.nan
            return logits

    with pytest.raises(ModelError, match="1 of 120 images"):
        evaluate(Broken("broken", encoder, task.classes), task, dataset)


def test_unreadable_images_are_left_out_and_named(encoder, task, dataset):
    images = [b"not an image" if i in (3, 50) else image for i, image in enumerate(dataset.images)]
    result = evaluate(encoder, task, LabelledSet("s", "val", dataset.keys, images, dataset.labels))
    assert result.n == 118
    assert [line.split(":")[0] for line in result.rejected] == ["k3", "k50"]
    with pytest.raises(SourceError, match="120 of 120"):
        evaluate(encoder, task, LabelledSet("s", "val", dataset.keys, [b"x"] * 120, dataset.labels))


def test_one_class_has_no_roc(encoder, task, dataset):
    rows = [i for i, label in enumerate(dataset.labels) if label == "star"]
    only = LabelledSet("s", "val", [str(i) for i in rows], [dataset.images[i] for i in rows], ["star"] * len(rows))
    with pytest.raises(TaskError, match="only one class"):
        evaluate(encoder, task.model_copy(update={"metric": "roc-auc"}), only)


def test_results_are_replaced_whole_or_not_at_all(encoder, task, dataset, tmp_path, monkeypatch):
    save_results([evaluate(encoder, task, dataset)], tmp_path / "r.json")
    before = (tmp_path / "r.json").read_text()

    def cut_short(self, text, *given, **options):
        self.write_bytes(text[:9].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", cut_short)
    with pytest.raises(OSError, match="disk full"):
        save_results([], tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_results_survive_json(encoder, task, dataset, tmp_path):
    result = evaluate(encoder, task, dataset)
    save_results([result], tmp_path / "r.json")
    (back,) = load_results(tmp_path / "r.json")
    assert back.model_dump() == result.model_dump()
    assert "outcomes" not in result.model_dump_json()
    (tmp_path / "bad.json").write_text('[{"task": 3}]')
    with pytest.raises(SourceError, match=r"bad\.json is not a file of results"):
        load_results(tmp_path / "bad.json")
    with pytest.raises(SourceError, match="predictions of both"):
        back.gain_over(result)
    assert isinstance(back, Result)


@pytest.fixture
def several(dataset):
    """The shapes with two labels for every third image and none for one."""
    sets = [(label, "star") if row % 3 == 0 else (label,) for row, label in enumerate(dataset.labels)]
    sets = [tuple(dict.fromkeys(own)) for own in sets]
    sets[7] = ()
    return LabelledSet("shapes", "val", dataset.keys, dataset.images, [], label_sets=sets)


@pytest.mark.parametrize("metric", ["map11", "map"])
def test_several_labels_an_image(encoder, task, several, metric, tmp_path):
    task = task.model_copy(update={"metric": metric})
    result = evaluate(encoder, task, several, resamples=20)
    scores = zero_shot(encoder, task)(encoder.encode_images(several.images)).numpy()
    marks = np.array([[name in own for name in task.classes] for own in several.label_sets])
    assert result.metrics["map"] == pytest.approx(average_precision_score(marks, scores, average="macro"))
    assert result.value == result.metrics[metric] and result.interval[0] <= result.value <= result.interval[1]
    assert result.top1 == pytest.approx(marks[np.arange(120), scores.argmax(1)].mean())
    assert np.mean(list(result.per_class.values())) == pytest.approx(result.metrics["map11"])
    assert {"top5", "mean-per-class"}.isdisjoint(result.model_dump(mode="json")["metrics"])


def test_several_labels_need_a_metric_for_them(encoder, task, several):
    with pytest.raises(TaskError, match=r"several labels an image, .* take --metric map11 or map"):
        evaluate(encoder, task, several)
    several.label_sets[0] = ("hexagon",)
    with pytest.raises(TaskError, match="has labels that task 'shapes' lacks: 'hexagon'"):
        evaluate(encoder, task.model_copy(update={"metric": "map"}), several)
