"""Folders of images beside folders of masks, COCO's panoptic ones too: which mask is whose, what values mean."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from retroclip.errors import SourceError, TaskError
from retroclip.evaluation.masks import load_masks
from retroclip.pairs import count_pairs, mask_classes, read_pairs
from retroclip.pairs.mask_names import COCO_STUFF_IDS, COCO_STUFF_TRAIN_IDS
from retroclip.tasks import Task


@pytest.fixture
def put(tmp_path, make_encoded):
    """`put("images/train/a.jpg", …)`: images of 48 x 32; `put("masks/a.png", value=3)`: a mask of one value."""

    def place(*names, value=None, size=(48, 32)):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if value is None:
                path.write_bytes(make_encoded(len(name)))
            else:
                Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path)
        return tmp_path

    return place


def values(pair):
    return np.unique(np.asarray(Image.open(io.BytesIO(pair.mask)))).tolist()


def test_ade20k_as_it_is_published(put):
    put("images/training/ADE_train_1.jpg", "images/validation/ADE_val_1.jpg", "images/validation/ADE_val_2.jpg")
    put("annotations/training/ADE_train_1.png", value=0)
    ade = put("annotations/validation/ADE_val_1.png", value=150)
    data = load_masks(Task.load("ade20k"), f"{ade}#validation")
    assert (data.keys, data.split, data.without_mask) == (["ADE_val_1"], "validation", 1)
    assert (data.masks[0] == 149).all()
    assert (load_masks(Task.load("ade20k"), f"{ade}#training").masks[0] == 255).all()
    assert mask_classes(ade) is None and count_pairs(ade) == 3 and count_pairs(f"{ade}#validation") == 2
    assert [pair.key for pair in read_pairs(ade)] == [
        "training/ADE_train_1",
        "validation/ADE_val_1",
        "validation/ADE_val_2",
    ]
    assert [pair.key for pair in read_pairs(ade, where="key LIKE '%2'")] == ["validation/ADE_val_2"]
    with pytest.raises(SourceError, match="no split 'val'; it has: training, validation"):
        read_pairs(f"{ade}#val")
    put("annotations/validation/ADE_val_2.png", value=1, size=(32, 48))
    with pytest.raises(SourceError, match="a mask of 32 x 48 for an image of 48 x 32 pixels"):
        load_masks(Task.load("ade20k"), f"{ade}#validation")


def test_suffixes_of_masks_may_be_capitals(put):
    put("images/a.JPG")
    (pair,) = read_pairs(put("masks/a.PNG", value=3))  # not two images
    assert (pair.key, values(pair)) == ("a", [3])


def test_cityscapes_by_either_kind_of_ids(put):
    image = put("leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", "leftImg8bit/val/bonn/bonn_2_leftImg8bit.png")
    for city in ("ulm/ulm_1", "bonn/bonn_2"):
        put(f"gtFine/val/{city}_gtFine_color.png", value=90)
        put(f"gtFine/val/{city}_gtFine_instanceIds.png", value=91)
        put(f"gtFine/val/{city}_gtFine_labelTrainIds.png", value=10)
    task = Task.load("cityscapes")
    assert set(mask_classes(image).values()) == set(task.classes)
    data = load_masks(task, f"{image}#val")
    assert data.keys == ["bonn/bonn_2", "ulm/ulm_1"] and all((m == task.classes.index("sky")).all() for m in data.masks)
    for city, value in (("ulm/ulm_1", 23), ("bonn/bonn_2", 1)):
        put(f"gtFine/val/{city}_gtFine_labelIds.png", value=value)
    assert set(mask_classes(image).values()) == set(task.classes) | set(task.ignored) - {"license plate", "void"}
    void, sky = load_masks(task, f"{image}#val").masks
    assert (sky == task.classes.index("sky")).all() and (void == 255).all()


def test_coco_stuff_by_its_own_ids_or_those_without_gaps(put):
    task = Task.load("coco-stuff")
    assert list(COCO_STUFF_TRAIN_IDS.values()) == list(COCO_STUFF_IDS.values()) == task.classes
    assert (COCO_STUFF_IDS[89], COCO_STUFF_IDS[91], COCO_STUFF_IDS[181]) == ("toothbrush", "banner", "wood")
    put("images/val2017/000000000139.jpg")
    folder = put("annotations/val2017/000000000139_labelTrainIds.png", value=170)
    assert (load_masks(task, f"{folder}#val2017").masks[0] == 170).all()
    put("annotations/val2017/000000000139.png", value=12)  # COCO's 13, a stop sign; without gaps a parking meter
    assert (load_masks(task, f"{folder}#val2017").masks[0] == task.classes.index("stop sign")).all()
    put("annotations/val2017/000000000139.png", value=11)
    with pytest.raises(TaskError, match="pixels of 11"):
        load_masks(task, f"{folder}#val2017")


def test_a_folder_of_ones_own_and_those_that_are_none(put):
    put("images/a.jpg", "images/b.JPG")
    folder = put("masks/a.png", value=1)
    a, b = read_pairs(folder)
    assert (a.key, values(a), a.label, b.mask) == ("a", [1], None, None)
    with pytest.raises(TaskError, match="pixels of 1, but task 'one' has 0"):
        load_masks(Task("one", classes=["sky"]), folder)


def test_folders_whose_masks_are_of_no_image_stay_what_they_were(put):
    put("images/a.jpg")
    pets = put("annotations/trimaps/a.png", value=1)  # Oxford's pets
    assert all(pair.mask is None for pair in read_pairs(pets))
    with pytest.raises(SourceError, match=r"has no mask: segmentation needs .* a folder `images` with masks"):
        load_masks(Task("one", classes=["sky"]), pets)


def test_coco_panoptic_as_it_is_published(put):
    put(*(f"val2017/{i}.jpg" for i in range(11)), "val2017/x.jpg")
    segments = np.zeros((32, 48, 3), np.uint8)
    segments[:8], segments[8:16] = (7, 1, 0), (8, 1, 1)
    folder = put("annotations/panoptic_val2017/nothing.png", value=0)
    for i in range(11):
        Image.fromarray(segments).save(folder / f"annotations/panoptic_val2017/{i}.png")
    known = [{"id": 7 + 256, "category_id": 1}, {"id": 8 + 256 + 65536, "category_id": 184, "iscrowd": 1}]
    record = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(11)] + [{"id": 99, "file_name": "x.jpg"}],
        "annotations": [
            {"image_id": i, "file_name": f"{i}.png", "segments_info": known[: 1 if i == 10 else 2]} for i in range(11)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 184, "name": "tree-merged"}],
    }
    path = folder / "annotations" / "panoptic_val2017.json"
    path.write_text(json.dumps(record))
    task = Task.load("coco-panoptic")
    data = load_masks(task, path)
    person, tree = task.classes.index("person"), task.classes.index("tree-merged")
    assert (len(data), data.without_mask) == (10, 1) and data.masks[0][[0, 8, 16], 0].tolist() == [person, tree, 255]
    assert data.rejected == ["10: can't read 10.jpg or its mask: 10.png has a segment 65800 that its annotation lacks"]
    with pytest.raises(TaskError, match="pixels of tree-merged, which task 'one' lacks"):
        load_masks(Task("one", classes=["person"]), path)
