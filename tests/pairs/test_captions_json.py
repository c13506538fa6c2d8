"""Captions in COCO's and in Karpathy's JSON."""

import json

import pytest

from retroclip.errors import SourceError
from retroclip.pairs import read_pairs


def test_coco_captions_lie_beside_their_images(tmp_path, make_encoded):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "7.jpg").write_bytes(make_encoded(7))
    record = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "caption": " a dog\n"}, {"image_id": 7, "caption": "it runs"}],
    }
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(record))
    (pair,) = read_pairs(tmp_path / "annotations" / "captions_val2017.json")
    assert pair.captions == ("a dog", "it runs") and pair.image == make_encoded(7)


def test_karpathys_splits(tmp_path, make_encoded):
    images = []
    for number, split in enumerate(["train", "restval", "test"]):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.jpg").write_bytes(make_encoded(number))
        images.append({"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": f"caption {number}"}]})
    file = tmp_path / "dataset_flickr.json"
    file.write_text(json.dumps({"images": images}))
    assert [pair.captions for pair in read_pairs(f"{file}#test")] == [("caption 2",)]
    assert [pair.key for pair in read_pairs(f"{file}#train")] == ["0", "1"]
    assert len(list(read_pairs(file))) == 3
    with pytest.raises(SourceError, match="has no split 'val'; it has: test, train"):
        read_pairs(f"{file}#val")
