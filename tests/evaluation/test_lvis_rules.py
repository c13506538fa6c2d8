"""LVIS's federated annotation: what counts where only some classes were looked for, by hand and by another library."""

import json

import numpy as np
import pytest

from retroclip.evaluation.average_precision import (
    Boxes,
    coco_average_precision,
    coco_record,
    coco_results,
    resampled_mean,
)
from retroclip.evaluation.boxes import BoxedImages, load_boxes
from retroclip.evaluation.detected import most_detections
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.regions import class_matches
from retroclip.tasks import Task

from .test_regions import ColourEncoder, picture, write

NAMES = ["red", "green", "blue"]
TASK = Task("colours", classes=NAMES, protocol="detection")


def write_lvis(folder, painted, annotated, negative, open_ended, size=(40, 30)):
    """A LVIS json of painted boxes, some of them annotated; by image, ids of classes absent or not all there."""
    images, annotations = [], []
    for i, own in enumerate(painted):
        (folder / f"{i + 1}.png").write_bytes(picture(own, size=size))
        lists = {"neg_category_ids": negative[i], "not_exhaustive_category_ids": open_ended[i]}
        images.append({"id": i + 1, "file_name": f"{i + 1}.png"} | lists)
        annotations += [
            {"id": len(annotations) + j, "image_id": i + 1, "category_id": NAMES.index(label) + 1, "bbox": box}
            for j, (label, *box) in enumerate(annotated[i])
        ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    path = folder / "lvis.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def detect(folder, source, rows):
    """AP50 by class for proposals (image, x, y, w, h, score)."""
    given = folder / "given.json"
    given.write_text(json.dumps([{"image_id": i, "bbox": box, "score": score} for i, *box, score in rows]))
    options = {"proposals": str(given), "limit": 300, "resamples": 20}
    return run_protocol("detection", ColourEncoder(), TASK, source, options=options)


A, B, C = (2, 2, 10, 10), (16, 2, 10, 10), (2, 16, 10, 10)
PAINTED = [[("red", *A), ("green", *B), ("blue", *C)], [("red", *A), ("red", *B)], [("green", *A), ("blue", *B)]]
ANNOTATED = [[("red", *A)], [("red", *A)], [("green", *A), ("blue", *B)]]
# What nobody annotated scores highest: each is the first detection of its class.
ROWS = [(1, *A, 0.5), (1, *B, 0.9), (1, *C, 0.9), (2, *A, 0.5), (2, *B, 0.9), (3, *A, 0.5), (3, *B, 0.5)]


def test_only_verified_classes_count_and_those_not_searched_to_the_end_have_no_wrong_boxes(tmp_path):
    # Green isn't in the first image, and was found there: wrong. Nobody looked for blue: that box doesn't count.
    # Not all red of the second image is annotated: the box that matches nothing isn't wrong.
    source = write_lvis(tmp_path, PAINTED, ANNOTATED, negative=[[2], [], []], open_ended=[[], [1], []])
    result = detect(tmp_path, source, ROWS)
    assert result.per_class == {"red": 1.0, "green": 0.5, "blue": 1.0}
    assert result.value == pytest.approx(2.5 / 3) and result.options["detections"] == 6
    assert result.interval[0] <= result.value <= result.interval[1]

    every = [[2, 3], [2, 3], [1]]
    searched = detect(tmp_path, write_lvis(tmp_path, PAINTED, ANNOTATED, every, [[], [], []]), ROWS)
    # Red: wrong, right, right, so precision 2/3 at every recall. Green and blue: wrong, right.
    assert searched.per_class == pytest.approx({"red": 2 / 3, "green": 0.5, "blue": 0.5})


def test_proposals_go_by_the_number_of_an_image_not_by_a_file_that_is_called_so(tmp_path):
    source = write_lvis(tmp_path, PAINTED, ANNOTATED, negative=[[2], [], []], open_ended=[[], [1], []])
    record = json.loads(source.read_text())
    for each in (*record["images"], *record["annotations"]):  # 1.png is image 2, 2.png image 3, 3.png image 1
        name = "id" if "file_name" in each else "image_id"
        each[name] = each[name] % 3 + 1
    source.write_text(json.dumps(record))
    result = detect(tmp_path, source, [(i % 3 + 1, *rest) for i, *rest in ROWS])
    assert result.per_class == {"red": 1.0, "green": 0.5, "blue": 1.0}


def test_300_detections_of_an_image_count_and_100_of_other_sets(tmp_path):
    crowd = [("red", float(x), float(y), 5.0, 4.0) for x in range(0, 120, 8) for y in range(0, 80, 8)]
    rows = [(1, *box, 0.9) for _, *box in crowd]
    assert len(rows) == 150
    lvis = write_lvis(tmp_path, [crowd], [crowd], [[]], [[]], size=(128, 96))
    assert detect(tmp_path, lvis, rows).per_class["red"] == 1.0
    coco = write(tmp_path / "1.parquet", [picture(crowd, size=(128, 96))], [crowd])
    rows = [(0, *row[1:]) for row in rows]
    # 100 of 150 found: the recall points 0, 0.01, …, 0.66 of 101.
    assert detect(tmp_path, coco, rows).per_class["red"] == pytest.approx(67 / 101)


def test_regions_of_a_class_not_searched_to_the_end_are_never_wrong(tmp_path):
    annotated, painted = [[("red", *A), ("green", *B)]], [[("green", *A), ("red", *B)]]  # each looks like the other
    for open_ended, red in (([[]], 0.5), ([[1]], 1.0)):
        source = write_lvis(tmp_path, painted, annotated, [[]], open_ended)
        result = run_protocol("regions", ColourEncoder(), TASK, source)
        # Its first answer is wrong, or neither right nor wrong; its second is right. Nobody looked for blue.
        assert result.per_class["red"] == pytest.approx(red) and result.per_class["green"] == pytest.approx(0.5)
        assert "blue" not in {name for name, value in result.per_class.items() if np.isfinite(value)}


def federated(seed):
    """A random set of which some classes were looked for only, and 250 detections an image."""
    rng = np.random.default_rng(seed)
    n_images, n_classes, n = 8, 5, 70
    box = np.concatenate([rng.uniform(0, 60, (n, 2)), rng.uniform(8, 40, (n, 2))], axis=1)
    image, label = rng.integers(n_images, size=n), rng.integers(n_classes - 1, size=n)
    data = BoxedImages("lvis", None, list("abcde"), boxes=box, labels=label, image_of=image, crowd=np.zeros(n, bool))
    data.images, data.sizes = [b""] * n_images, [(100, 100)] * n_images
    for i in range(n_images):
        present = set(label[image == i].tolist())
        data.verified[i] = present | {c for c in range(n_classes) if rng.random() < 0.5}
        data.not_exhaustive[i] = {c for c in present if rng.random() < 0.4}
    of = rng.integers(n, size=250 * n_images)
    moved = box[of] + rng.normal(scale=2.5, size=(len(of), 4))
    starts = np.clip(moved[:, :2], 0, 99)
    ends = np.clip(moved[:, :2] + moved[:, 2:], starts + 1, 100)
    answers = np.where(rng.random(len(of)) < 0.7, label[of], rng.integers(n_classes, size=len(of)))
    scores = rng.permutation(len(of)) / len(of)
    return data, Boxes(image[of], answers, np.concatenate([starts, ends - starts], axis=1), scores)


@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_the_lvis_evaluation_of_faster_coco_eval(seed):
    from faster_coco_eval import COCO, COCOeval_faster

    data, detections = federated(seed)
    record = coco_record(Boxes(data.image_of, data.labels, data.boxes), len(data), 5)
    for i, each in enumerate(record["images"]):
        present = set(data.labels[data.image_of == i].tolist())
        each["neg_category_ids"] = [c + 1 for c in data.verified[i] - present]
        each["not_exhaustive_category_ids"] = [c + 1 for c in data.not_exhaustive[i]]
    for each in record["categories"]:
        each["frequency"] = "f"
    truth = COCO(record, print_function=lambda *_: None)
    evaluation = COCOeval_faster(
        truth, truth.loadRes(coco_results(detections)), "bbox", print_function=lambda *_: None, lvis_style=True
    )
    evaluation.params.maxDets = [300]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    expected = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1)).mean(axis=0)
    shape = {"n_images": len(data), "n_classes": 5, "max_detections": most_detections(data)}
    kept = data.only_asked(detections)
    assert len(kept) < len(detections)
    np.testing.assert_allclose(coco_average_precision(data.truth, kept, **shape).ap, expected, atol=1e-9)
    once = resampled_mean(class_matches(data.truth, kept, **shape), np.ones((1, len(data)), int))
    assert once[0] == pytest.approx(np.nanmean(expected), abs=1e-9)


def test_sets_that_were_searched_for_every_class_stay_as_they_are(tmp_path):
    boxes = [[("red", *A)]]
    data = load_boxes(TASK, write(tmp_path / "all.parquet", [picture(boxes[0])], boxes))
    detections = Boxes(np.zeros(3, int), np.arange(3), np.ones((3, 4)), np.ones(3))
    assert data.only_asked(detections) is detections and data.asked(0).all() and most_detections(data) == 100
    assert len(data.truth) == 1 and not data.truth.crowd.any()
