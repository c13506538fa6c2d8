"""Folders in CLIP_benchmark's layout, as a source and as a task."""

import io

import numpy as np
import pytest

from retroclip.errors import SourceError
from retroclip.pairs import Rejected, load_labelled, read_pairs
from retroclip.tasks import Task

from .test_webdataset import write_tar


def npy(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, make_encoded):
    """Two shards of a test split with the classes 0, 1, 2, 0; one of a train split."""
    root = tmp_path / "pets"
    for split, shards in (("test", ([0, 1], [2, 0])), ("train", ([1],))):
        (root / split).mkdir(parents=True)
        (root / split / "nshards.txt").write_text(f"{len(shards)}\n")
        for number, labels in enumerate(shards):
            members = []
            for row, label in enumerate(labels):
                members += [(f"s{row}.jpg", make_encoded(row)), (f"s{row}.cls", str(label).encode())]
            write_tar(root / split / f"{number}.tar", members)
    (root / "classnames.txt").write_text("beagle\nkeeshond\nbeagle\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nthe {c}.\n")
    return root


def test_class_numbers_become_names(folder):
    data = load_labelled(f"{folder}#test")
    assert data.labels == ["beagle", "keeshond", "beagle (2)", "beagle"]
    assert (data.name, data.split) == ("pets", "test")
    assert data.keys == ["s0", "s1", "s0~2", "s1~2"]
    assert len(load_labelled(folder)) == 5
    assert load_labelled(f"{folder}#test", where="label = 'keeshond'").keys == ["s1"]


def test_the_folder_is_a_task(folder):
    task = Task.load(folder)
    assert task.name == "pets" and task.classes == ["beagle", "keeshond", "beagle (2)"] and task.metric == "top1"
    assert task.prompts("beagle (2)") == ["a photo of a beagle.", "the beagle."]


def test_several_labels_an_image(folder, make_encoded):
    members = [("a.jpg", make_encoded(0)), ("a.npy", npy([1, 0, 1])), ("b.jpg", make_encoded(1)), ("b.npy", b"x")]
    write_tar(folder / "train" / "0.tar", members)
    (folder / "dataset_type.txt").write_text("multilabel\n")
    first, second = read_pairs(f"{folder}#train")
    assert first.label is None and first.labels == ("beagle", "beagle (2)")
    assert isinstance(second, Rejected) and second.reason == ".npy holds no vector of class marks"
    assert Task.load(folder).metric == "map"


def test_captions_without_classes(folder, make_encoded):
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (folder / name).unlink()
    write_tar(folder / "train" / "0.tar", [("a.jpg", make_encoded(0)), ("a.txt", b"one\ntwo\n")])
    assert [pair.captions for pair in read_pairs(f"{folder}#train")] == [("one", "two")]


def test_what_is_missing_is_named(folder):
    with pytest.raises(SourceError, match=r"has no split 'val'; it has: test, train"):
        read_pairs(f"{folder}#val")
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(SourceError, match=r"1\.tar is missing: nshards\.txt says that there are 2 shards"):
        read_pairs(f"{folder}#test")
    (folder / "test" / "nshards.txt").write_text("many")
    with pytest.raises(SourceError, match="must hold the number of shards"):
        read_pairs(f"{folder}#test")


def test_a_class_beyond_the_list_is_rejected(folder):
    (folder / "classnames.txt").write_text("beagle\nkeeshond\n")
    rejected = [item for item in read_pairs(f"{folder}#test") if isinstance(item, Rejected)]
    assert [item.reason for item in rejected] == ["class '2' is not a line of classnames.txt (0 to 1)"]
