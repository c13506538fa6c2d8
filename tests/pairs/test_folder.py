"""Folders of images with captions beside them, and class folders."""

import json
import os

import pytest

from retroclip.errors import SourceError
from retroclip.pairs import Pair, Rejected, count_pairs, read_pairs


@pytest.fixture
def folder(tmp_path, make_encoded):
    """One image of each kind of caption, in several scripts, nested, with hidden files about."""
    root = tmp_path / "photos"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for number, name in enumerate(
        ["a.jpg", "b.JPG", "c.png", "sub/d.jpeg", "sub/deep/e.jpg", ".hidden/f.jpg", ".g.jpg"]
    ):
        (root / name).write_bytes(make_encoded(number, format="PNG" if name.endswith("png") else "JPEG"))
    (root / "a.txt").write_text("a red bus\n\nin the rain\na red bus\n", encoding="utf-8")
    (root / "b.txt").write_text("", encoding="utf-8")
    record = {"caption": "un cafe\u0301", "captions": ["zwei"], "label": "cup", "license": "CC0", "author": "me"}
    (root / "c.json").write_text(json.dumps(record), encoding="utf-8")
    (root / "sub" / "d.txt").write_text("猫が窓辺で寝ている\nقطة نائمة", encoding="utf-8")
    (root / "notes.md").write_text("not an image")
    return root


def by_key(items):
    return {item.key: item for item in items}


def test_captions_beside_images(folder):
    pairs = by_key(read_pairs(folder))
    assert list(pairs) == ["a", "b", "c", "sub/d", "sub/deep/e"]
    assert pairs["a"].captions == ("a red bus", "in the rain") and pairs["a"].caption == "a red bus"
    assert pairs["a"].image == (folder / "a.jpg").read_bytes()
    assert pairs["c"].captions == ("un café", "zwei")
    assert (pairs["c"].label, pairs["c"].license, pairs["c"].metadata) == ("cup", "CC0", {"author": "me"})
    assert pairs["sub/d"].captions == ("猫が窓辺で寝ている", "قطة نائمة")
    assert count_pairs(folder) == 5


def test_an_empty_caption_is_absent_and_noted(folder):
    pair = by_key(read_pairs(folder))["b"]
    assert pair.captions == () and pair.caption is None and "empty" in pair.metadata["note"]
    assert pair.faults == (".txt is empty",)
    assert not by_key(read_pairs(folder))["sub/deep/e"].faults  # a caption that isn't there is no fault


@pytest.mark.parametrize(("name", "content"), [("a.json", b"{broken"), ("a.json", b"[1]"), ("b.txt", b"\xff\xfe\x00")])
def test_unusable_annotations_are_noted_and_the_image_kept(folder, name, content):
    (folder / name).write_bytes(content)
    pair = by_key(read_pairs(folder))[name[0]]
    assert isinstance(pair, Pair) and f".{name.split('.')[1]} is not" in pair.metadata["note"]


def test_the_folder_is_the_label_unless_it_is_a_collection(folder):
    labels = {key: pair.label for key, pair in by_key(read_pairs(folder)).items()}
    assert labels == {"a": None, "b": None, "c": "cup", "sub/d": None, "sub/deep/e": "deep"}


def test_a_folder_named_like_a_split_is_no_label(tmp_path, make_encoded):
    for name in ["train/cat/1.jpg", "train/2.jpg", "val/dog/1.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make_encoded())
    assert [(p.key, p.label) for p in read_pairs(tmp_path)] == [
        ("train/2", None),
        ("train/cat/1", "cat"),
        ("val/dog/1", "dog"),
    ]
    assert [p.key for p in read_pairs(f"{tmp_path}#val")] == ["dog/1"]
    with pytest.raises(SourceError, match=r"no split 'test'; it has: train, val"):
        read_pairs(f"{tmp_path}#test")


def test_an_empty_image_is_rejected(folder):
    (folder / "a.jpg").write_bytes(b"")
    rejected = by_key(read_pairs(folder))["a"]
    assert isinstance(rejected, Rejected) and "0 bytes" in rejected.reason


def test_same_stem_gives_unique_keys(folder, make_encoded):
    (folder / "a.png").write_bytes(make_encoded(9, format="PNG"))
    pairs = by_key(read_pairs(folder))
    assert {"a", "a~2"} <= set(pairs) and pairs["a~2"].captions == pairs["a"].captions


def test_no_image_is_an_error_at_the_call(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(SourceError, match="no image found"):
        read_pairs(tmp_path)


def test_a_link_that_leads_back_ends(folder):
    os.symlink(folder, folder / "sub" / "again", target_is_directory=True)
    assert len(list(read_pairs(folder))) == 5


def test_where_reads_fields_and_metadata(folder):
    assert [pair.key for pair in read_pairs(folder, where="author = 'me' OR captions LIKE '%rain%'")] == ["a", "c"]


def test_names_that_are_not_utf8(tmp_path, make_encoded):
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(make_encoded())
    next(read_pairs(tmp_path)).key.encode("utf-8")


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    """Its images had been missing without a word."""
    scan = os.scandir

    def denied(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    *pairs, last = read_pairs(folder)
    assert [pair.key for pair in pairs] == ["a", "b", "c", "sub/d"]
    assert last == Rejected("sub/deep", "photos", "can't read the folder: Permission denied")
