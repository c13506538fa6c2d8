"""Class names that come with the annotations: LVIS and COCO json as tasks."""

import json

import pytest

from retroclip.errors import TaskError
from retroclip.tasks import Task, task_for, template_sets

CATEGORIES = [
    {"id": 3, "name": "tank_(storage_vessel)", "synonyms": ["tank_(storage_vessel)", "cistern"], "frequency": "c"},
    {"id": 1, "name": "aerosol_can", "synonyms": ["aerosol_can", "spray_can"], "def": "a can that sprays"},
    {"id": 2, "name": "air_conditioner", "synonyms": ["aerosol can"], "frequency": "r"},
]


def write(path, categories=CATEGORIES, **more):
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories} | more))
    return path


def test_lvis_names_come_from_its_json_in_the_order_of_ids(tmp_path):
    file = write(tmp_path / "lvis_v1_val.json")
    task = Task.load(file)
    assert task.classes == ["aerosol can", "air conditioner", "tank (storage vessel)"]
    assert (task.name, task.protocol, task.novel) == ("lvis_v1_val", "regions", ["air conditioner"])
    assert task.templates == list(template_sets()["imagenet"])
    # A synonym that is another class's name stays that class's.
    assert task.synonyms == {"aerosol can": ["spray can"], "tank (storage vessel)": ["cistern"]}
    assert task.descriptions == {"aerosol can": "a can that sprays"}
    assert task.label_index["aerosol_can"] == 0 and task.label_index["cistern"] == 2
    named = task_for("LVIS", f"{file}")
    assert (named.name, named.classes) == ("lvis", task.classes)
    assert task_for("cifar10", file).name == "cifar10"


def test_a_synonym_that_stands_alone_is_one(tmp_path):
    rows = [{"id": 1, "name": "cat", "synonyms": "house_cat"}, {"id": 2, "name": "dog", "synonyms": "cat"}]
    assert Task.load(write(tmp_path / "a.json", rows)).synonyms == {"cat": ["house cat"]}


@pytest.mark.parametrize("text", ["{", "[]", '{"categories": []}', '{"categories": [{"id": 1}]}'])
def test_other_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TaskError, match=r"a\.json"):
        Task.load(tmp_path / "a.json")


def test_lvis_by_itself_says_where_its_names_are():
    with pytest.raises(TaskError, match="come with its annotations"):
        Task.load("lvis")
    with pytest.raises(TaskError, match="can't read class names"):
        task_for("lvis", "missing.parquet#val")


def test_a_folder_has_no_class_names(tmp_path):
    with pytest.raises(TaskError, match="it is a folder, and no COCO or LVIS json"):
        task_for("lvis", tmp_path)
