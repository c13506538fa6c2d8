"""Annotation files with boxes and masks: COCO and LVIS json, VOC folders."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retroclip.errors import SourceError
from retroclip.pairs import Rejected, count_pairs, mask_classes, mask_source, read_pairs


@pytest.fixture
def coco(tmp_path, make_encoded):
    """A COCO folder: annotations/instances_val2017.json beside val2017/."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in (1, 2):
        (tmp_path / "val2017" / f"{number:03d}.jpg").write_bytes(make_encoded(number))
    record = {
        "images": [
            {"id": 1, "file_name": "001.jpg"},
            {"id": 2, "coco_url": "http://images/val2017/002.jpg", "neg_category_ids": [7],
             "not_exhaustive_category_ids": [3]},
            {"id": 3, "file_name": "../../etc/passwd"},
        ],
        "categories": [{"id": 3, "name": "wine_glass"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [5, 5, 5, 5]},
            {"id": 4, "image_id": 2, "caption": "a glass"},
        ],
    }  # fmt: skip
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(record))
    return path


def test_coco_boxes_crowds_captions_and_lvis_lists(coco):
    first, second, third = read_pairs(coco)
    assert first.boxes == (("dog", 1, 2, 3, 4),)
    assert first.metadata == {"image_id": 1, "ignored_boxes": [("wine glass", 0, 0, 9, 9)]}
    assert second.key == "002" and second.boxes == (("wine glass", 5, 5, 5, 5),) and second.captions == ("a glass",)
    assert second.metadata["verified"] == ["dog", "wine glass"] and second.metadata["not_exhaustive"] == ["wine glass"]
    assert isinstance(third, Rejected) and "no image file" in third.reason
    assert count_pairs(coco) == 3
    assert [pair.key for pair in read_pairs(coco, where="image_id = 2") if not isinstance(pair, Rejected)] == ["002"]


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"images": []}', '{"images": [], "annotations": []}'])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError):
        list(read_pairs(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "wrong", [{"bbox": ["a", 2, 3, 4]}, {"bbox": None}, {"bbox": [1, 2, 3]}, {"category_id": None}]
)
def test_coco_boxes_that_are_none_are_rejected(coco, wrong):
    record = json.loads(coco.read_text())
    record["annotations"][0] |= wrong
    coco.write_text(json.dumps(record))
    first, second, _ = read_pairs(coco)
    assert isinstance(first, Rejected) and first.reason == "annotation 1 has no known category, or no four numbers"
    assert second.key == "002"


@pytest.mark.parametrize(
    "text",
    [
        '{"images": ["x"], "annotations": []}', '{"images": [{"id": [1]}], "annotations": []}',
        '{"images": [{"id": 1}], "annotations": [3]}', '{"images": [{"filename": "a.jpg", "sentences": "a"}]}',
        '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}',
        '{"images": [{"id": 1}], "annotations": [], "categories": null}',
    ],
)  # fmt: skip
def test_rows_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError):
        list(read_pairs(tmp_path / "a.json"))


def test_annotations_that_can_not_be_read_reject_their_image(tmp_path, make_encoded):
    (tmp_path / "a.jpg").write_bytes(make_encoded(1))
    record = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    for box in (None, [1, 2, 3, "x"], [1, 2, 3, None]):
        annotations = [{"image_id": 1, "category_id": 1, "bbox": box}]
        (tmp_path / "a.json").write_text(json.dumps(record | {"annotations": annotations}))
        (item,) = read_pairs(tmp_path / "a.json")
        assert isinstance(item, Rejected) and "annotation" in item.reason


XML = """<annotation><object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path, make_encoded):
    for folder in ("Annotations", "JPEGImages", "SegmentationClass", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for key in ("a", "b"):
        (tmp_path / "JPEGImages" / f"{key}.jpg").write_bytes(make_encoded(1))
        (tmp_path / "Annotations" / f"{key}.xml").write_text(XML)
    Image.fromarray(np.full((4, 4), 8, np.uint8)).save(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    (tmp_path / "ImageSets" / "Main" / "dog_val.txt").write_text("b 1\n")
    return tmp_path


def test_voc_counts_pixels_from_one(voc):
    a, b = read_pairs(voc)
    assert a.boxes == (("dog", 0, 0, 10, 20),) and a.metadata["ignored_boxes"] == [("cat", 2, 2, 2, 2)]
    assert a.metadata["labels"] == ["dog"]
    assert np.asarray(Image.open(io.BytesIO(a.mask))).max() == 8 and b.mask is None
    assert [pair.key for pair in read_pairs(f"{voc}#val")] == ["b"]
    assert mask_classes(f"{voc}#val")[8] == "cat"
    with pytest.raises(SourceError, match="it has: val"):
        list(read_pairs(f"{voc}#test"))


def test_a_voc_folder_of_masks_alone_and_its_list_for_segmentation(voc):
    shutil.rmtree(voc / "Annotations")
    (voc / "ImageSets" / "Segmentation").mkdir()
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    (voc / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("b\n")
    (voc / "SegmentationClassAug").mkdir()
    for key, value in (("a", 7), ("b", 3)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(voc / "SegmentationClassAug" / f"{key}.png")
    assert [pair.key for pair in read_pairs(f"{voc}#val")] == ["b"]
    assert mask_source(f"{voc}#val") == f"{voc}#Segmentation/val" and mask_source(voc) == voc
    ((a,), (b,)) = (list(read_pairs(mask_source(f"{voc}#{split}"))) for split in ("val", "trainaug"))
    assert (a.key, a.boxes, b.key) == ("a", (), "b")
    assert [np.asarray(Image.open(io.BytesIO(pair.mask))).max() for pair in (a, b)] == [8, 3]  # VOC's own goes first
    with pytest.raises(SourceError, match="no split 'Action/val'"):
        list(read_pairs(f"{voc}#Action/val"))
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    assert mask_source(f"{voc}#val") == f"{voc}#val"


def test_voc_annotations_with_entities_are_rejected(voc):
    (voc / "Annotations" / "a.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    first, second = read_pairs(voc)
    assert isinstance(first, Rejected) and "document type" in first.reason and second.key == "b"


def test_parquet_boxes_by_name_and_mask_classes(tmp_path, make_encoded):
    boxes = pa.array([[{"w": 3.0, "h": 4.0, "label": "dog", "x": 1.0, "y": 2.0}]])
    table = pa.table({"image": [make_encoded(0)], "boxes": boxes})
    pq.write_table(
        table.replace_schema_metadata({"mask_classes": '{"0": "sky", "11": "void"}'}), tmp_path / "a.parquet"
    )
    (pair,) = read_pairs(tmp_path / "a.parquet")
    assert pair.boxes == (("dog", 1.0, 2.0, 3.0, 4.0),)
    assert mask_classes(tmp_path / "a.parquet") == {0: "sky", 11: "void"}
    pq.write_table(table.replace_schema_metadata({"mask_classes": "[1]"}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="mask_classes"):
        mask_classes(tmp_path / "b.parquet")
