"""RegionCLIP's protocol on pictures of coloured boxes, and proposals of every kind."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import retroclip
from retroclip.encoders import dense
from retroclip.errors import ModelError, SourceError
from retroclip.evaluation.average_precision import Boxes
from retroclip.evaluation.boxes import load_boxes
from retroclip.evaluation.detected import beside_untrained, keep_best, summarise_detections
from retroclip.evaluation.detection import (
    BASE_SHARE,
    NOVEL_SHARE,
    OBJECTNESS,
    finite,
    mixed,
    with_background,
)
from retroclip.evaluation.proposals import choose_proposals, grid, read_proposals
from retroclip.evaluation.protocols import run_protocol
from retroclip.pairs import decode_image
from retroclip.tasks import Task

from .test_regions import ColourEncoder, picture, write

TASK = Task("colours", classes=["red", "green", "blue"], novel=["blue"], protocol="detection")
BOXES = [
    [("red", 2.0, 3.0, 8.0, 8.0), ("green", 20.0, 10.0, 10.0, 12.0)],
    [("blue", 0.0, 0.0, 20.0, 20.0)],
    [],
]


@pytest.fixture
def boxed(tmp_path):
    return write(tmp_path / "boxes.parquet", [picture(own) for own in BOXES], BOXES)


def test_true_boxes_are_all_found(boxed):
    result = run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": "truth"})
    assert result.metrics == {"ap50": 1.0, "ap50-novel": 1.0, "ap50-base": 1.0, "ap": 1.0}
    assert result.n == 3 and set(result.intervals) == {"ap50-novel", "ap50-base"}
    assert result.options["boxes"] == 3


def test_given_boxes_and_those_that_can_not_be_used(tmp_path, boxed):
    keys = [f"boxes/{i:08d}" for i in range(3)]
    rows = [
        {"image_id": keys[0], "bbox": [2, 3, 8, 8], "score": 0.9},
        {"file_name": "00000001.png", "bbox": [0, 0, 20, 20]},
    ]
    rows += [{"file_name": "00000001.png", "bbox": [i, 0, 2, 2], "score": 0} for i in range(8)]
    rows += [{"image_id": "other", "bbox": [0, 0, 1, 1]}, {"image_id": keys[2], "bbox": [0, 0, 0, 1]}]
    rows += [{"image_id": 0, "bbox": [30, 20, 5, 5]}]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(rows))
    data = load_boxes(TASK, boxed, empty=True)
    given = read_proposals(path, data)
    assert [len(scores) for _, scores in given] == [2, 9, 0] and given[0][1][0] == 0.9
    assert "no area" in data.rejected[0]
    result = run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": str(path)})
    assert result.per_class == {"red": 1.0, "green": 0.0, "blue": 1.0}
    path.write_text('[{"image_id": "x", "bbox": [1, 1, 2, 2]}]')
    with pytest.raises(SourceError, match="no box for any of the 3 images"):
        choose_proposals(str(path), data, limit=9)
    for text in ("{", '{"a": 1}', "[1]", '[{"image_id": 1, "bbox": 5}]'):
        path.write_text(text)
        with pytest.raises(SourceError, match="not a list"):
            read_proposals(path, data)
    with pytest.raises(SourceError, match="choose grid"):
        choose_proposals("rpn", data, limit=9)


@pytest.fixture
def scored(tmp_path, boxed):
    """A writer of proposals for the second image, one a score, and the set they are read for."""
    path = tmp_path / "scored.json"

    def write_scores(*scores):
        path.write_text(json.dumps([{"image_id": 1, "bbox": [0, 0, 20, 20], "score": score} for score in scores]))
        return path

    return write_scores, boxed


@pytest.mark.parametrize("score", [-0.7, 3.2, 1.01])
def test_scores_that_are_no_probabilities_are_refused(scored, score):
    write_scores, boxed = scored
    path = write_scores(0.9, score)
    with pytest.raises(SourceError, match=rf"scored\.json.*00000001 the score {score}.*from 0 to 1"):
        run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": str(path)})


def test_scores_that_are_no_numbers_are_counted(scored):
    write_scores, boxed = scored
    nan = float("nan")
    path = write_scores(*[0.9] * 20, nan, float("inf"), 1 + 1e-7, -1e-9)
    result = run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": str(path)})
    assert result.rejected == ["boxes/00000001: proposal: a score that isn't a number"] * 2
    assert result.per_class["blue"] == 1.0
    data = load_boxes(TASK, boxed, empty=True)
    scores = read_proposals(path, data)[1][1]
    assert scores.min() == 0 and scores.max() == 1 and len(scores) == 22
    for wrong in ([nan] * 3, [0.5, 0.5, nan]):
        with pytest.raises(SourceError, match=r"scored\.json: \d proposals can't be used, such as .* isn't a number"):
            read_proposals(write_scores(*wrong), data)


def test_a_grid_covers_the_image_and_finds_something(boxed):
    boxes, scores = grid(40, 30)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= 40.001).all() and len(scores) == len(boxes) > 50
    assert (boxes[:, 1] + boxes[:, 3]).max() == pytest.approx(30)
    result = run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": "grid", "limit": 300})
    assert 0 < result.value <= 1 and result.options["detections"] > 0


def test_background_of_zeros_is_one_more_class():
    logits = np.random.default_rng(0).normal(scale=3, size=(5, 4))
    expected = torch.cat([torch.from_numpy(logits), torch.zeros(5, 1)], 1).softmax(1)[:, :4]
    np.testing.assert_allclose(with_background(logits), expected)


def test_non_maximum_suppression_is_per_class():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [30, 0, 5, 5.0]])
    scores = np.array([[0.9, 0.2], [0.8, 0.3], [0.0005, 0.4]])
    kept = keep_best(boxes, scores, 7)
    assert list(zip(kept.label.tolist(), kept.scores.tolist(), strict=True)) == [(0, 0.9), (1, 0.4), (1, 0.3)]
    assert set(kept.image.tolist()) == {7}


def test_mixed_scores_are_geometric_means():
    rng = np.random.default_rng(0)
    learnt, own, objectness = rng.random((4, 3)), rng.random((4, 3)), rng.random(4)
    scores = mixed(learnt, own, objectness, np.array([False, False, True]))
    for i in range(4):
        for c, share in enumerate((BASE_SHARE, BASE_SHARE, NOVEL_SHARE)):
            logs = (1 - share) * np.log(learnt[i, c]) + share * np.log(own[i, c]) + OBJECTNESS * np.log(objectness[i])
            assert scores[i, c] == pytest.approx(np.exp(logs))


def test_what_is_trained_stands_beside_what_is_not(boxed):
    data = load_boxes(TASK, boxed, empty=True)
    rows = [np.flatnonzero(data.image_of == i) for i in range(3)]
    right = [Boxes(data.image_of[own], data.labels[own], data.boxes[own], np.ones(len(own))) for own in rows]
    none = [each.select(np.zeros(len(each), bool)) for each in right]
    result = summarise_detections(data, TASK, right, none, method="trained", resamples=20)
    untrained = {"zero-shot": right, "grid": none}
    found = beside_untrained(result, data, TASK, right, untrained, none, 20)
    assert (found.metrics["zero-shot-ap50"], found.metrics["grid-ap50-novel"]) == (1.0, 0.0)
    assert (found.metrics["gain-ap50"], found.intervals["gain-ap50"]) == (0.0, (0.0, 0.0))
    assert (found.metrics["gain-over-grid-ap50-novel"], found.metrics["gain-over-grid-ap50"]) == (1.0, 1.0)


class AllRed:
    """In place of a trained detector: one red box an image."""

    dense = None

    def detect(self, image):
        return np.array([[2.0, 3, 8, 8]]), np.array([[0.9, 0.01, 0.01]]), np.array([0.8])

    def parameters(self):
        return [torch.zeros(2, 3), torch.zeros(4)]


def test_what_can_not_be_used_of_both_sets_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("retroclip.training.detector.train_detector", lambda *_, **__: AllRed())
    over = [BOXES[0], [("blue", 30.0, 5.0, 20.0, 5.0)]]
    val = write(tmp_path / "val.parquet", [picture(own) for own in over], over)
    learnt = [[("red", 1.0 + i, 2.0, 9.0, 9.0)] for i in range(12)]
    images = [picture(own) for own in learnt]
    learnt[3].append(("green", 1.0, 1.0, 0.0, 4.0))
    train = write(tmp_path / "train.parquet", images, learnt)
    result = run_protocol("detection", ColourEncoder(), TASK, val, options={"train": train, "resamples": 0})
    assert (result.options["train"], result.options["proposals"], result.seed) == (Path(train).stem, "network", 0)
    assert result.trained_parameters == 10 and result.fit_seconds + result.predict_seconds == result.seconds
    assert result.rejected == ["training set: train/00000003: a box of no area (0 x 4)"]
    assert result.options["clipped"] == 1 and result.per_class == {"red": 1.0, "green": 0.0, "blue": 0.0}

    stream = io.BytesIO()
    decode_image(picture(over[0])).save(stream, "BMP")
    same = write(tmp_path / "same.parquet", [*images, stream.getvalue()], [*learnt, over[0]])
    with pytest.raises(SourceError, match=r"same\.parquet holds images that are evaluated"):
        run_protocol("detection", ColourEncoder(), TASK, val, options={"train": same})


@pytest.mark.parametrize(("width", "passes"), [(48, 1), (60, 2)])
def test_the_tower_runs_once_for_what_asks_for_the_same_pixels(
    tmp_path, tiny_model, make_encoded, monkeypatch, width, passes
):
    """A detector wants sides of 32 pixels, patches ones of 8: 48 x 48 are 64 x 64 to both, 60 x 48 are not."""
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    boxes = [[("red", 2.0, 3.0, 20.0, 20.0), ("blue", 20.0, 10.0, 16.0, 30.0)]] * 3
    train, val = (
        write(tmp_path / f"{start}.parquet", [make_encoded(start + i, (width, 48)) for i in range(3)], boxes)
        for start in (0, 10)
    )
    options = {"train": train, "features": "dense", "size": 64, "epochs": 1, "limit": 10, "resamples": 0}
    seen = []

    def counted(encoder, pixels):
        seen.append(len(pixels))
        return whole(encoder, pixels)

    whole = dense.dense_map
    monkeypatch.setattr(dense, "dense_map", counted)
    result = run_protocol("detection", encoder, TASK, val, options=options)
    assert len(seen) == 1 + 3 + 3 * passes  # the detector looks what a map is like, then at its examples
    monkeypatch.setattr(dense.LastDense, "__call__", lambda self, pixels: whole(self.encoder, pixels))
    again = run_protocol("detection", encoder, TASK, val, options=options)
    assert again.metrics == pytest.approx(result.metrics, abs=1e-5, nan_ok=True)
    assert again.options["detections"] == result.options["detections"]


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ModelError, match="the detector gave NaN or infinite scores"):
        finite(np.array([[0.5, np.nan]]), "the detector")
