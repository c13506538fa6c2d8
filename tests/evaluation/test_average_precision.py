"""AP against pycocotools on the same detections, and the resampled AP against the reported one."""

import contextlib
import io

import numpy as np
import pytest

from retroclip.evaluation.average_precision import (
    Boxes,
    coco_average_precision,
    coco_record,
    coco_results,
    iou,
    match,
    resampled_mean,
)
from retroclip.evaluation.regions import ap_interval, class_matches

N_IMAGES, N_CLASSES = 12, 4


def scene(seed, crowds=True):
    """Random truth, and detections that are jittered truth, other classes and noise, with tied scores."""
    rng = np.random.default_rng(seed)
    n = 60
    box = np.concatenate([rng.uniform(0, 60, (n, 2)), rng.uniform(8, 40, (n, 2))], axis=1)
    truth = Boxes(
        rng.integers(N_IMAGES, size=n), rng.integers(N_CLASSES - 1, size=n), box,
        crowd=rng.random(n) < 0.15 if crowds else None,
    )  # fmt: skip
    copies = rng.integers(n, size=4 * n)
    jitter = box[copies] + rng.normal(scale=2.5, size=(4 * n, 4))
    jitter[:, 2:] = np.maximum(jitter[:, 2:], 1)
    label = np.where(rng.random(4 * n) < 0.8, truth.label[copies], rng.integers(N_CLASSES, size=4 * n))
    return truth, Boxes(truth.image[copies], label, jitter, rng.random(4 * n).round(2))


def by_pycocotools(truth, detections, max_detections=100):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO()
        gt.dataset = coco_record(truth, N_IMAGES, N_CLASSES)
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(coco_results(detections)), "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_detections", [3, 100])
def test_ap_equals_pycocotools(seed, max_detections):
    truth, detections = scene(seed)
    expected = by_pycocotools(truth, detections, max_detections)
    ap = coco_average_precision(
        truth, detections, n_images=N_IMAGES, n_classes=N_CLASSES, max_detections=max_detections
    )
    np.testing.assert_allclose(ap.ap, expected.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(ap.ap50, expected[0], atol=1e-9)
    assert np.isnan(ap.ap[-1]) and ap.mean() == pytest.approx(np.nanmean(expected.mean(axis=0)))


def test_without_a_limit_all_detections_count():
    side = np.arange(250)
    box = np.stack([side % 25 * 10, side // 25 * 10, np.full(250, 8), np.full(250, 8)], axis=1).astype(float)
    truth = Boxes(np.zeros(250, int), np.zeros(250, int), box)
    detections = Boxes(truth.image, truth.label, box, np.linspace(1, 0.1, 250))
    shape = {"n_images": N_IMAGES, "n_classes": N_CLASSES}
    # Recall ends at 100 of 250: the points 0, 0.01, …, 0.4 have precision 1, the other ones 0.
    assert coco_average_precision(truth, detections, **shape).ap[0] == pytest.approx(41 / 101)
    assert coco_average_precision(truth, detections, **shape, max_detections=None).ap[0] == pytest.approx(1)
    assert ap_interval(truth, detections, **shape, resamples=9, max_detections=None) == pytest.approx((1, 1))
    dense = scene(6)[1]
    dense = Boxes(dense.image % 2, dense.label, dense.box, dense.scores)
    truth = scene(6)[0]
    truth = Boxes(truth.image % 2, truth.label, truth.box, crowd=truth.crowd)
    expected = by_pycocotools(truth, dense, 10000).mean(axis=0)
    np.testing.assert_allclose(coco_average_precision(truth, dense, **shape, max_detections=None).ap, expected)


@pytest.mark.parametrize("seed", range(4))
def test_matching_of_our_own_agrees(seed):
    truth, detections = scene(seed)
    matches = class_matches(truth, detections, n_images=N_IMAGES, n_classes=N_CLASSES)
    once = np.ones((1, N_IMAGES), dtype=int)
    ap = coco_average_precision(truth, detections, n_images=N_IMAGES, n_classes=N_CLASSES)
    assert resampled_mean(matches, once)[0] == pytest.approx(ap.mean(), abs=1e-9)


def test_a_resample_equals_a_set_with_repeated_images():
    truth, detections = scene(5, crowds=False)
    counts = np.random.default_rng(0).integers(3, size=(1, N_IMAGES))
    rows = [(i, image) for image in range(N_IMAGES) for i in range(counts[0, image])]

    def repeated(boxes):
        parts = [(np.flatnonzero(boxes.image == image), position) for position, (_, image) in enumerate(rows)]
        chosen = np.concatenate([own for own, _ in parts])
        images = np.concatenate([np.full(len(own), position) for own, position in parts])
        part = boxes.select(chosen)
        return Boxes(images, part.label, part.box, part.scores)

    label = detections.label
    one_class = match(truth.select(truth.label == 1), detections.select(label == 1), n_images=N_IMAGES)
    again = coco_average_precision(repeated(truth), repeated(detections), n_images=len(rows), n_classes=N_CLASSES)
    assert one_class.resampled(counts)[0] == pytest.approx(again.ap[1], abs=0.02)  # ties fall in another order


def test_no_detection_and_perfect_detections():
    truth, _ = scene(0, crowds=False)
    none = Boxes(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    assert coco_average_precision(truth, none, n_images=N_IMAGES, n_classes=N_CLASSES).mean() == 0
    perfect = Boxes(truth.image, truth.label, truth.box, np.ones(len(truth)))
    assert coco_average_precision(truth, perfect, n_images=N_IMAGES, n_classes=N_CLASSES).mean() == pytest.approx(1)
    assert ap_interval(truth, perfect, n_images=N_IMAGES, n_classes=N_CLASSES, resamples=20) == pytest.approx((1, 1))


def test_iou_by_counting_pixels():
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([rng.integers(0, 10, (5, 2)), rng.integers(1, 10, (5, 2))], axis=1) for _ in range(2))

    def pixels(box):
        grid = np.zeros((20, 20), bool)
        grid[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        return grid

    expected = [[(pixels(x) & pixels(y)).sum() / (pixels(x) | pixels(y)).sum() for y in b] for x in a]
    np.testing.assert_allclose(iou(a.astype(float), b.astype(float)), expected)


def test_the_gain_over_itself_is_nothing_and_over_chance_is_more():
    truth, detections = scene(1)
    shape = {"n_images": N_IMAGES, "n_classes": N_CLASSES, "resamples": 50}
    assert ap_interval(truth, detections, base=detections, **shape) == (0, 0)
    rng = np.random.default_rng(0)
    chance = Boxes(detections.image, detections.label, detections.box, rng.random(len(detections)))
    worse = Boxes(truth.image, (truth.label + 1) % (N_CLASSES - 1), truth.box, np.ones(len(truth)))
    assert ap_interval(truth, detections, base=worse, **shape)[0] > 0
    assert ap_interval(truth, detections, base=chance, **shape)[0] > -1
