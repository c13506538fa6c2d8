"""mIoU against scikit-learn, and masks that don't fit."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

import retroclip
from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation.bootstrap import resample_counts
from retroclip.evaluation.confusion import class_iou, confusion, majority_matrix, mean_iou, pixel_accuracy
from retroclip.evaluation.masks import MaskedImages
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.segmentation import beside_untrained, summarise_masks
from retroclip.report.notes import footnotes
from retroclip.tasks import Task

TASK = Task("ground", classes=["sky", "road", "tree"], novel=["tree"], ignored=["void"])


def test_confusion_and_iou_equal_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (30, 20)), rng.integers(0, 5, (30, 20))
    truth[:5] = 255
    matrix = confusion(predicted, truth, 5)
    kept = truth != 255
    np.testing.assert_array_equal(matrix, confusion_matrix(truth[kept], predicted[kept], labels=range(5)))
    expected = jaccard_score(truth[kept], predicted[kept], labels=range(5), average=None)
    np.testing.assert_allclose(class_iou(matrix), expected)
    assert expected[4] == 0 and mean_iou(matrix) == pytest.approx(expected.mean())
    assert pixel_accuracy(matrix) == pytest.approx((truth == predicted)[kept].mean())
    constant = np.full_like(truth, np.bincount(truth[kept]).argmax())
    np.testing.assert_array_equal(majority_matrix(matrix), confusion(constant, truth, 5))


def mmseg_miou(images, n_classes):
    """mmseg's `intersect_and_union` and mean of (prediction, truth), pixel by pixel of each class."""
    intersect, union = np.zeros(n_classes), np.zeros(n_classes)
    for predicted, truth in images:
        kept = truth != 255
        for c in range(n_classes):
            ours, theirs = predicted[kept] == c, truth[kept] == c
            intersect[c] += (ours & theirs).sum()
            union[c] += ours.sum() + theirs.sum() - (ours & theirs).sum()
    with np.errstate(invalid="ignore"):
        return np.nanmean(intersect / union)


def test_a_class_that_is_only_called_counts_nought_and_one_that_is_neither_is_left_out():
    rng = np.random.default_rng(1)
    task = Task("five", classes=[*"abcde"])
    images = [(rng.choice([0, 1, 3], (8, 9)), rng.choice([0, 1, 2, 255], (8, 9))) for _ in range(6)]
    matrices = np.stack([confusion(predicted, truth, 5) for predicted, truth in images])
    data = MaskedImages("m", None, keys=[*"abcdef"], images=[b""] * 6, masks=[truth for _, truth in images])
    result = summarise_masks(matrices, task, data, method="zero-shot", resamples=50)
    assert result.value == result.metrics["miou"] == pytest.approx(mmseg_miou(images, 5))
    assert result.per_class["d"] == 0 and np.isnan(result.per_class["e"]) and result.missing_classes == ["d", "e"]
    # A class that a resample happens to lack isn't a wrong call in it; one that the data lack is, in every resample.
    assert np.isnan(class_iou(matrices[0], np.array([False] * 3 + [True] * 2))).tolist() == [False] * 4 + [True]
    lacking = np.array([[3, 1, 0], [0, 2, 1], [0, 0, 0]])
    assert class_iou(lacking)[2] == 0 and np.isnan(class_iou(lacking, np.zeros(3, bool))[2])


def test_confusion_refuses_other_shapes_and_indices():
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ValueError, match="class index"):
        confusion(np.zeros((2, 2), int), np.full((2, 2), 7), 2)


def png(values, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(stream, kind)
    return stream.getvalue()


def write(path, images, masks, names='{"0": "Sky", "4": "road", "5": "tree", "9": "void"}'):
    table = pa.table({"image": images, "mask": pa.array(masks, pa.binary())})
    pq.write_table(table.replace_schema_metadata({"mask_classes": names} if names else None), path)
    return str(path)


@pytest.fixture
def masked(tmp_path, make_encoded):
    rng = np.random.default_rng(0)
    masks = [png(rng.choice([0, 4, 5, 9, 255], (32, 48))) for _ in range(12)]
    return write(tmp_path / "masks.parquet", [make_encoded(i) for i in range(12)], masks)


def test_segmentation_of_a_random_tower_is_a_whole_result(masked, tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    result = run_protocol("segmentation", encoder, TASK, masked, options={"smoothing": True, "denoising": 0.5})
    assert result.n == 12 and 0 <= result.value <= 1 and result.interval[0] <= result.interval[1]
    assert set(result.metrics) == {"miou", "miou-novel", "miou-base", "pixel-accuracy"}
    assert 0.25 < result.baselines["pixel-accuracy"] < 0.4 and set(result.intervals) == {"miou-novel", "miou-base"}
    with pytest.raises(RetroclipError, match="threshold"):
        run_protocol("segmentation", encoder, TASK, masked, options={"denoising": 2})


def scenes(path, numbers, kind="PNG"):
    """Skies of several heights over a road; the tree is novel, and pixels of it are there."""
    images, masks = [], []
    for number in numbers:
        line = 12 + 2 * (number % 5)
        values, mask = np.zeros((32, 48, 3), np.uint8), np.full((32, 48), 4)
        values[:line], values[line:], values[line:, :9] = (80, 120, 250), (90, 90, 90 + number), (20, 120, 20)
        mask[:line], mask[line:, :9] = 0, 5
        images.append(png(values, kind))
        masks.append(png(mask))
    return write(path, images, masks)


@pytest.mark.parametrize("student", ["maskclip+", "maskformer"])
def test_a_student_stands_beside_the_untrained_model(tmp_path, tiny_model, student):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    train, val = scenes(tmp_path / "train.parquet", range(6)), scenes(tmp_path / "val.parquet", range(20, 24))
    options = {"train": train, "student": student, "size": 32, "epochs": 2, "seed": 1}
    result = run_protocol("segmentation", encoder, TASK, val, options=options)
    untrained = run_protocol("segmentation", encoder, TASK, val, options={"size": 32})
    assert (result.method, result.n, result.options["seed"]) == (student, 4, 1)
    assert ("targets" in result.options) == (student == "maskformer")
    assert (result.seed, untrained.seed) == (1, None)
    assert result.trained_parameters > 1000 and 0 < result.fit_seconds < result.seconds
    assert result.fit_seconds + result.predict_seconds == pytest.approx(result.seconds)
    assert (untrained.trained_parameters, untrained.fit_seconds) == (0, 0)
    for part in ("miou", "miou-novel", "miou-base"):
        assert result.metrics[f"zero-shot-{part}"] == pytest.approx(untrained.metrics[part])
        assert result.metrics[f"gain-{part}"] == pytest.approx(result.metrics[part] - untrained.metrics[part])
        low, high = result.intervals[f"gain-{part}"]
        assert -1 <= low <= high <= 1
    for same in (train, scenes(tmp_path / "again.parquet", range(6), "BMP")):
        with pytest.raises(SourceError, match="holds images that are evaluated"):
            run_protocol("segmentation", encoder, TASK, same, options=options)
    with pytest.raises(RetroclipError, match="option student"):
        run_protocol("segmentation", encoder, TASK, val, options=options | {"student": "unet"})


def test_annotation_free_training_reads_no_mask(tmp_path, tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    val, train = scenes(tmp_path / "val.parquet", range(20, 24)), tmp_path / "train.parquet"
    table = pq.read_table(scenes(train, range(11)))
    options = {"train": str(train), "targets": "annotation-free", "size": 32, "epochs": 1}
    found = []
    for images in (table, table.drop_columns("mask").replace_schema_metadata(None)):
        pq.write_table(images, train)
        result = run_protocol("segmentation", encoder, TASK, val, options=options)
        found.append((result.value, result.per_class))
    assert found[0] == found[1] and result.options["targets"] == "annotation-free"
    broken = [*table["image"].to_pylist()[:10], b"no image"]
    pq.write_table(pa.table({"image": broken}), train)
    result = run_protocol("segmentation", encoder, TASK, val, options=options)
    assert result.rejected[0].startswith("training set: train/00000010: not an image")
    pq.write_table(pa.table({"image": broken[8:]}), train)
    with pytest.raises(SourceError, match="1 images or masks can't be used"):
        run_protocol("segmentation", encoder, TASK, val, options=options)


def test_a_task_of_novel_classes_alone_has_one_mean(tmp_path, tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    task = TASK.model_copy(update={"novel": TASK.classes})
    result = run_protocol("segmentation", encoder, task, scenes(tmp_path / "val.parquet", range(3)))
    assert set(result.metrics) == {"miou", "pixel-accuracy"}


def test_masks_of_the_training_set_that_can_not_be_used_are_reported(tmp_path, tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    val, train = scenes(tmp_path / "val.parquet", range(20, 24)), tmp_path / "train.parquet"
    table = pq.read_table(scenes(train, range(12)))
    masks = [*table["mask"].to_pylist()[:11], png(np.zeros((5, 5)))]
    pq.write_table(table.set_column(1, "mask", pa.array(masks, pa.binary())), train)
    result = run_protocol("segmentation", encoder, TASK, val, options={"train": str(train), "size": 32, "epochs": 1})
    assert result.rejected == ["training set: train/00000011: a mask of 5 x 5 for an image of 48 x 32 pixels"]
    assert "1 evaluation images or masks (1 of them in the training set) could not" in " ".join(footnotes([result]))


def test_options_of_a_student_that_is_not_there_are_refused():
    with pytest.raises(RetroclipError, match="option student of protocol segmentation is for training"):
        run_protocol("segmentation", None, TASK, "nowhere", options={"student": "maskformer"})
    with pytest.raises(RetroclipError, match="for the maskformer student alone, not for maskclip"):
        run_protocol("segmentation", None, TASK, "nowhere", options={"train": "nowhere", "targets": "base"})


def test_gains_are_resampled_together():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 50, (9, 3, 3)), rng.integers(0, 50, (9, 3, 3))
    data = MaskedImages("m", None, keys=[*"abcdefghi"], images=[b""] * 9, masks=[np.zeros((1, 1), np.uint16)] * 9)
    result = summarise_masks(ours, TASK, data, method="student", resamples=300)
    found = beside_untrained(result, ours, theirs, TASK, resamples=300)
    (counts,) = resample_counts(9, 300, 0)
    by_hand = []
    for row in counts:
        a, b = (sum(k * m for k, m in zip(row, each, strict=True)) for each in (ours, theirs))
        by_hand.append(np.nanmean(class_iou(a)[:2]) - np.nanmean(class_iou(b)[:2]))
    np.testing.assert_allclose(found.intervals["gain-miou-base"], np.percentile(by_hand, [2.5, 97.5]))
    same = beside_untrained(result, ours, ours, TASK, resamples=300)
    assert (same.metrics["gain-miou"], same.intervals["gain-miou"]) == (0.0, (0.0, 0.0))
