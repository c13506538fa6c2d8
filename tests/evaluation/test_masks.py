"""Masks read for a task: what their values mean, whose images they are, and masks that can't be used."""

import io

import numpy as np
import pytest
from PIL import Image

import retroclip
from retroclip.errors import SourceError, TaskError
from retroclip.evaluation.masks import load_masks
from retroclip.evaluation.protocols import run_protocol
from retroclip.tasks import Task

from .test_segmentation import TASK, masked, png, write  # noqa: F401  (a fixture among them)


def test_masks_that_do_not_fit(tmp_path, masked, make_encoded):  # noqa: F811
    data = load_masks(TASK, masked)
    assert len(data) == 12 and set(np.unique(data.masks[0])) == {0, 1, 2, 255}
    images = [make_encoded(i) for i in range(22)]
    good = png(np.zeros((32, 48)))
    masks = [good] * 19 + [png(np.zeros((48, 32))), b"no image", None]
    data = load_masks(TASK, write(tmp_path / "some.parquet", images, masks))
    assert data.without_mask == 1 and len(data) == 19
    assert "a mask of 32 x 48 for an image of 48 x 32" in data.rejected[0] and "can't be read" in data.rejected[1]
    with pytest.raises(SourceError, match="can't be used"):
        load_masks(TASK, write(tmp_path / "bad.parquet", images[:3], masks[-3:]))
    with pytest.raises(SourceError, match="no mask"):
        load_masks(TASK, write(tmp_path / "none.parquet", images[:2], [None, None]))
    with pytest.raises(TaskError, match="pixels of road"):
        load_masks(Task("two", classes=["sky", "tree"], ignored=["void"]), masked)
    with pytest.raises(TaskError, match="pixels of 9"):
        load_masks(TASK, write(tmp_path / "plain.parquet", images[:1], [png(np.full((32, 48), 9))], names=None))
    tiff = io.BytesIO()
    Image.fromarray(np.array([[-65536, 70000]], np.int32).repeat(32, 0).repeat(24, 1)).save(tiff, "TIFF")
    data = load_masks(TASK, write(tmp_path / "wide.parquet", images[:20], [good] * 19 + [tiff.getvalue()]))
    assert "values from -65536 to 70000, not from 0 to 65535" in data.rejected[0]
    colours = png(np.zeros((32, 48, 3)))
    data = load_masks(TASK, write(tmp_path / "rgb.parquet", images[:20], [good] * 19 + [colours]))
    assert "colours" in data.rejected[0]


def plain(path, make_encoded, *values):
    """A file of masks without names, one a value or more, each row of pixels in its turn."""
    masks = [png(np.resize(own, 32)[:, None].repeat(48, 1)) for own in values]
    return write(path, [make_encoded(i) for i in range(len(values))], masks, names=None)


def test_classes_that_count_from_one(tmp_path, make_encoded):
    three = ["sky", "road", "tree"]
    reduced, usual = Task("reduced", classes=three, reduce_zero_label=True), Task("usual", classes=three)
    source = plain(tmp_path / "ade.parquet", make_encoded, [0, 1, 2, 3, 255])
    (mask,) = load_masks(reduced, source).masks
    assert mask[:5, 0].tolist() == [255, 0, 1, 2, 255]
    with pytest.raises(
        TaskError, match=r"pixels of 3, but task 'usual' has 0 \(sky\) to 2 \(tree\).*reduce_zero_label: true"
    ):
        load_masks(usual, source)
    with pytest.raises(
        TaskError, match=r"pixels of 4, 9, but task 'reduced' has 1 \(sky\) to 3 \(tree\), and 0 and 255"
    ):
        load_masks(reduced, plain(tmp_path / "more.parquet", make_encoded, [0, 4, 9]))
    (mask,) = load_masks(usual, plain(tmp_path / "zero.parquet", make_encoded, [0, 1, 2, 255])).masks
    assert mask[:4, 0].tolist() == [0, 1, 2, 255]
    named = write(tmp_path / "named.parquet", [make_encoded(0)], [png(np.full((32, 48), 4))])
    assert (load_masks(reduced, named).masks[0] == 1).all()  # names of values go first
    ade = plain(tmp_path / "ade20k.parquet", make_encoded, [0, 1, 150])
    assert load_masks(Task.load("ade20k"), ade).masks[0][:3, 0].tolist() == [255, 0, 149]
    many = [f"c{i}" for i in range(255)]
    with pytest.raises(TaskError, match="at most 254"):
        load_masks(Task("many", classes=many, reduce_zero_label=True), ade)


@pytest.fixture
def voc(tmp_path, make_image):
    """A folder as VOC2012 has it, of masks alone: background, a car and a border; `Main` lists more than has masks."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(9):
        size = [(48, 32), (32, 48), (40, 40)][i % 3]
        make_image(i, size).save(tmp_path / "JPEGImages" / f"{i}.jpg")
        values = np.zeros(size[::-1], np.uint8)
        values[8:24, 8:24], values[10:20, 10:20] = 255, 7
        mask = Image.fromarray(values, "P")
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [200] * 759)
        if i < 7:
            mask.save(tmp_path / "SegmentationClass" / f"{i}.png")
    lists = {"Main/train": "0123478", "Main/val": "568", "Segmentation/train": "01234", "Segmentation/val": "56"}
    for name, keys in lists.items():
        (tmp_path / "ImageSets" / f"{name}.txt").write_text("\n".join(keys) + "\n")
    return tmp_path


def test_a_voc_folder_has_the_splits_of_its_segmentation_and_a_background_or_none(voc):
    data = load_masks(Task.load("voc-segmentation"), f"{voc}#val")
    assert (data.keys, data.split, data.without_mask) == (["5", "6"], "val", 0)
    assert [mask.shape for mask in data.masks] == [(40, 40), (32, 48)]
    assert data.masks[0][[0, 8, 10], [0, 8, 10]].tolist() == [0, 255, 7]
    (mask, _) = load_masks(Task.load("voc20-segmentation"), f"{voc}#val").masks
    assert mask[[0, 8, 10], [0, 8, 10]].tolist() == [255, 255, 6]
    assert len(load_masks(Task.load("voc-segmentation"), voc)) == 7


def test_a_student_of_a_voc_folder(voc, tiny_model):
    encoder = retroclip.load(tiny_model(0), precision="fp32")
    options = {"train": f"{voc}#train", "size": 32, "epochs": 1, "student": "maskformer"}
    result = run_protocol("segmentation", encoder, Task.load("voc-segmentation"), f"{voc}#val", options=options)
    assert (result.n, result.rejected, result.options["without_mask"]) == (2, [], 0)
    assert set(result.missing_classes).isdisjoint({"background", "car"}) and len(result.missing_classes) == 19
    with pytest.raises(SourceError, match="no split 'test'"):
        run_protocol("segmentation", encoder, Task.load("voc-segmentation"), f"{voc}#test")
