"""The record: valid JSON whatever it holds, and the versions that stand behind a figure."""

import json
import math
import sys

import numpy as np

from retroclip.evaluation import Result, load_results, save_results
from retroclip.evaluation.masks import MaskedImages
from retroclip.evaluation.result import versions_behind
from retroclip.evaluation.segmentation import summarise_masks
from retroclip.tasks import Task

NAN = float("nan")


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


def test_a_novel_class_without_pixels_leaves_valid_json(tmp_path):
    task = Task("ground", classes=["sky", "road", "tree"], novel=["tree"])
    matrices = np.array([[[9, 1, 0], [2, 8, 0], [0, 0, 0]]] * 4)
    data = MaskedImages("d", None, ["k"] * 4, [b"i"] * 4, [np.zeros((2, 2), np.uint16)] * 4)
    with np.testing.suppress_warnings() as silent:
        silent.filter(RuntimeWarning)
        result = summarise_masks(matrices, task, data, method="zero-shot", resamples=20)
    assert math.isnan(result.intervals["miou-novel"][0])
    save_results([result], tmp_path / "r.json")
    (row,) = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert "miou-novel" not in row["intervals"] and "miou-novel" not in row["metrics"]
    assert set(row["intervals"]) == {"miou-base"} and "tree" not in row["per_class"]
    (back,) = load_results(tmp_path / "r.json")
    assert back.value == result.value and back.intervals["miou-base"] == result.intervals["miou-base"]


def test_nan_and_infinity_anywhere_leave_valid_json():
    result = Result(
        task="t", dataset="d", n=1, method="m", model="x", metric="top1", value=NAN, interval=(NAN, 1.0), gain=math.inf,
        history=[{"step": 1.0, "loss": NAN}], options={"floor": -math.inf, "deep": {"a": NAN, "none": None}, "k": 3},
    )  # fmt: skip
    row = json.loads(json.dumps(result.model_dump(mode="json")), parse_constant=refuse)
    assert (row["value"], row["interval"], row["gain"]) == (None, None, None)
    assert row["history"] == [{"step": 1.0}] and row["options"]["k"] == 3
    assert Result.model_validate(row).history == [{"step": 1.0}]


def test_versions_are_those_of_the_packages_behind_a_figure(monkeypatch):
    plain = versions_behind("classification", "top1")
    assert {"torch", "torchvision", "transformers", "numpy"} <= set(plain)
    assert {"faster-coco-eval", "scikit-learn", "av"}.isdisjoint(plain)
    for protocol in ("regions", "detection"):
        assert "faster-coco-eval" in versions_behind(protocol, "ap")
    assert "scikit-learn" in versions_behind("classification", "roc-auc")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    monkeypatch.setitem(sys.modules, "av", object())
    assert "av" in versions_behind("video", "top1") and "av" not in versions_behind("classification", "top1")


def test_a_stored_result_keeps_its_versions(tmp_path):
    given = {"task": "t", "dataset": "d", "n": 1, "method": "m", "model": "x", "metric": "ap", "protocol": "regions"}
    assert "faster-coco-eval" in Result(**given).versions
    assert Result(**given, versions={"torch": "1.0"}).versions == {"torch": "1.0"}
