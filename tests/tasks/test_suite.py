"""Suites that ship, the user's own, and where their data is looked for."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.errors import TaskError
from retroclip.tasks import Task, catalogue, list_suites, load_suite
from retroclip.tasks.suite import find_dataset


def test_every_task_of_every_suite_is_in_the_catalogue():
    counts = {name: len(load_suite(name).tasks) for name in list_suites()}
    assert counts == {"elevater-20": 20, "kornblith-12": 12, "ra-clip": 12, "imagenet-variants": 5}
    for name in list_suites():
        assert {entry.task for entry in load_suite(name).tasks} - {"lvis"} <= set(catalogue())
    metrics = {entry.task: Task.load(entry.task).metric for entry in load_suite("elevater-20").tasks}
    assert (metrics["voc2007"], metrics["hateful-memes"], metrics["cifar10"]) == ("map11", "roc-auc", "top1")
    averaged = {task for task, metric in metrics.items() if metric == "mean-per-class"}
    assert averaged == {"caltech101-full", "fgvc-aircraft", "flowers102", "oxford-pets"}


def test_a_suite_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tasks:\n- cifar10\n- {task: caltech101, dataset: 'c.parquet#val', train: 'c.parquet#train'}\n")
    suite = load_suite(file)
    assert suite.name == "mine" and suite.tasks[0].dataset is None and suite.tasks[1].train == "c.parquet#train"
    for text, complaint in (
        ("tasks: []", "lists no tasks"),
        ("tasks: [{task: a, split: b}]", "Extra inputs"),
        ("tasks: [{task: a, metric: top3}]", "metric"),
        ("1: 2\ntasks: [a]", "'mine': 1"),
    ):
        file.write_text(text)
        with pytest.raises(TaskError, match=complaint):
            load_suite(file)
    with pytest.raises(TaskError, match="no suite 'nope': choose elevater-20"):
        load_suite("nope")


def test_data_by_the_name_of_its_task_and_never_its_training_split(tmp_path):
    table = pa.table({"image": [b"x", b"y"], "label": ["cat", "dog"], "split": ["train", "val"]})
    pq.write_table(table, tmp_path / "tiny_imagenet.parquet")
    pq.write_table(table.drop_columns(["split"]), tmp_path / "pets.parquet")
    (tmp_path / "dtd" / "test").mkdir(parents=True)
    assert find_dataset(tmp_path, "tiny-imagenet") == f"{tmp_path}/tiny_imagenet.parquet#val"
    assert find_dataset(tmp_path, "pets") == f"{tmp_path}/pets.parquet"
    assert find_dataset(tmp_path, "dtd") == f"{tmp_path}/dtd#test"
    assert find_dataset(tmp_path, "food101") is None


def test_published_layouts_and_valid_folders_and_voc_image_sets(tmp_path):
    (tmp_path / "pets" / "train").mkdir(parents=True)
    (tmp_path / "pets" / "valid").mkdir()
    assert find_dataset(tmp_path, "pets") == f"{tmp_path}/pets#valid"
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "val2017").mkdir()
    for name in ("instances_train2017", "instances_val2017", "captions_val2017"):
        (tmp_path / "coco" / "annotations" / f"{name}.json").write_text("{}")
    assert find_dataset(tmp_path, "coco") == f"{tmp_path}/coco/annotations/instances_val2017.json"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc2007" / folder).mkdir(parents=True)
    for name, split in (("trainval", "val"), ("val", "val"), ("cat_test", "val"), ("test", "test")):
        (tmp_path / "voc2007" / "ImageSets" / "Main" / f"{name}.txt").write_text("000001\n")
        if name != "trainval":
            assert find_dataset(tmp_path, "voc2007") == f"{tmp_path}/voc2007#{split}"


def test_imagenet_v2_is_found_by_the_numbers_of_its_folders():
    index = Task.load("imagenet-v2").label_index
    assert [index["0"], index["999"], index["n01440764"]] == [0, 999, 0]
    assert "7" not in Task.load("imagenet").label_index
