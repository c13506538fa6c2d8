"""Task: what it accepts, refuses, and says."""

import pytest

from retroclip import tasks
from retroclip.errors import TaskError
from retroclip.tasks import LabelIndex, Task
from retroclip.training.prompts import PLAIN, prompt


@pytest.fixture
def pets():
    return Task(
        "pets",
        classes=["Russian_Blue", "beagle", "boxer"],
        templates=["a photo of a {}, a type of pet.", "{}"],
        display={"Russian_Blue": "russian blue cat"},
        descriptions={"boxer": "a stocky medium-sized breed of dog."},
        synonyms={"beagle": ["hound", "English beagle"], "boxer": ["Hound"]},
        metric="mean-per-class",
    )


def test_defaults_need_only_names():
    task = Task("mine", classes=["cat", "dog"])
    assert task.templates == ["a photo of a {}."] and task.metric == "top1"
    assert task.prompts("dog") == ["a photo of a dog."]
    assert Task(name="mine", classes=["cat", "dog"]) == task


def test_prompts_use_the_display_name_and_the_description(pets):
    assert pets.prompts("Russian_Blue") == ["a photo of a russian blue cat, a type of pet.", "russian blue cat"]
    assert pets.prompts("boxer", describe=True)[1] == "boxer, a stocky medium-sized breed of dog"
    # at the end and without a full stop, as `training.prompts.prompt` writes it
    assert (
        pets.prompts("boxer", describe=True)[0]
        == "a photo of a boxer, a type of pet, a stocky medium-sized breed of dog"
    )
    assert pets.prompts("beagle", describe=True) == pets.prompts("beagle")
    with pytest.raises(TaskError, match="no class 'cat'"):
        pets.prompts("cat")


def test_prompts_have_no_underscores_of_folder_names():
    task = Task("shop", classes=["grand_piano", "x_ray"], display={"x_ray": "X_ray"})
    assert task.prompts("grand_piano") == ["a photo of a grand piano."] and task.prompts("x_ray") == [
        "a photo of a X_ray."
    ]
    assert task.classes == ["grand_piano", "x_ray"] and task.label_index["Grand Piano"] == 0


def test_a_described_task_says_so_in_its_templates(pets, tmp_path):
    described = pets.described()
    assert described.templates == ["a photo of a {}, a type of pet, {description}.", "{}, {description}"]
    assert all(described.prompts(name) == pets.prompts(name, describe=True) for name in pets.classes)
    assert described.described() == described and described.label_index == pets.label_index
    described.to_yaml(tmp_path / "pets.yaml")
    assert Task.load(tmp_path / "pets.yaml").prompts("boxer") == described.prompts("boxer")
    with pytest.raises(TaskError, match="'mine' has no descriptions: give them"):
        Task("mine", classes=["cat"]).described()


@pytest.mark.parametrize("template", ["a {}: {description}", "{}, {description}, {description} {description}"])
def test_templates_that_ask_oddly_for_a_description_are_refused(template):
    with pytest.raises(TaskError, match="a description follows as"):
        Task("t", classes=["cat"], templates=[template])


def test_described_prompts_are_those_of_training(pets):
    class Always:  # the template of `prompt`'s first branch or its second, and the description whenever it may
        def __init__(self, *draws):
            self.draws = list(draws)

        def random(self):
            return self.draws.pop(0)

    task = Task("t", classes=["boxer"], templates=["{}", PLAIN], descriptions={"boxer": "a breed of dog."})
    trained = [prompt("boxer", "a breed of dog", Always(draw, 0.0), gloss_share=1.0) for draw in (0.1, 0.3)]
    assert task.described().prompts("boxer") == trained


def test_label_index_knows_every_name_of_a_class(pets):
    index = pets.label_index
    assert isinstance(index, LabelIndex)
    for label in ["Russian_Blue", "russian blue", "RUSSIAN  BLUE", "russian blue cat"]:
        assert index[label] == 0 and label in index
    assert index["english_beagle"] == 1 and index["boxer"] == 2
    assert index["hound"] == 1  # the first class that claims a synonym has it
    assert index.get("cat") is None and "cat" not in index
    with pytest.raises(KeyError):
        index["cat"]


def test_a_class_name_goes_before_another_classes_synonym():
    task = Task("t", classes=["crane", "bird"], synonyms={"bird": ["crane"]})
    assert task.label_index["crane"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no classes"),
        ({"classes": []}, "no classes"),
        ({"classes": ["a", " "]}, "empty"),
        ({"classes": ["Tabby cat", "tabby_cat"]}, "twice"),
        ({"classes": "cat"}, "classes"),
        ({"classes": ["a"], "templates": ["a photo"]}, "has no {}"),
        ({"classes": ["a"], "templates": []}, "no templates"),
        ({"classes": ["a"], "templates": "nonsense"}, "no template set 'nonsense'; there are photo, imagenet"),
        ({"classes": ["a"], "clases": ["b"]}, "unknown key 'clases'; the keys are name, classes"),
        ({"clases": ["b"]}, "unknown key 'clases'; the keys are name, classes"),
        ({"classes": ["a", "a"]}, "class 'a' is there twice$"),
        ({"classes": ["a"], "metric": "f1"}, "metric"),
        ({"classes": ["a"], "synonyms": {"b": ["c"]}}, "'b', which is not a class"),
        ({"classes": {"shared": "imagenet", "indices": [1000]}}, "between|within"),
        ({"classes": {"shared": "lvis"}}, "list of names"),
        ({"classes": {"shared": "imagenet", "indices": "15"}}, "indices are a list of numbers, not '15'"),
        ({"classes": {"shared": "imagenet", "indices": ["a"]}}, "indices are a list of numbers"),
        ({"classes": {"shared": "imagenet"}, "display": ["a"]}, "display is a mapping from class names"),
        ({"classes": [{"cat": "a feline"}, "dog"]}, "{'cat': 'a feline'} is not the name of a class"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields, message):
    with pytest.raises(TaskError, match=message) as error:
        Task("t", **fields)
    assert "\n" not in str(error.value) and "'t'" in str(error.value)


def test_yaml_round_trip(pets, tmp_path):
    task = pets.model_copy(update={"classes": [*pets.classes, "ネコ"]})
    task.to_yaml(tmp_path / "task.yaml")
    assert Task.load(tmp_path / "task.yaml") == task
    assert [path.name for path in tmp_path.iterdir()] == ["task.yaml"]


def test_load_takes_lists_text_files_and_names_with_commas(tmp_path, pets):
    (tmp_path / "digits.yaml").write_text("- 0\n- 1\n- no\n- null\n- 1.50\n")
    (tmp_path / "animals.txt").write_text("cat\n\n  dog \nאריה\n", encoding="utf-8")
    assert Task.load(tmp_path / "digits.yaml") == Task("digits", classes=["0", "1", "no", "null", "1.50"])
    assert Task.load(str(tmp_path / "animals.txt")) == Task("animals", classes=["cat", "dog", "אריה"])
    assert Task.load("cat, golden retriever,dog").classes == ["cat", "golden retriever", "dog"]
    assert Task.load(pets) is pets


def test_a_file_may_leave_out_its_name_and_share_templates(tmp_path):
    (tmp_path / "my.yaml").write_text("templates: imagenet\nclasses: [cat, dog]\n")
    task = Task.load(tmp_path / "my.yaml")
    assert task.name == "my" and len(task.prompts("cat")) == 80


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no classes"),
        ("name: x\n", "no classes"),
        ("a: [", "not valid YAML"),
        ("classes: [cat]\nclasses: [dog]", "'classes' is there twice, in lines 1 and 2"),
        ("classes: [cat, dog]\nsynonyms:\n  cat: [puss]\n  cat: [tom]", "'cat' is there twice, in lines 3 and 4"),
        ("classes: [cat, dog]\nsynonyms: {cat: [puss], cat: [tom]}", "'cat' is there twice, in lines 2 and 2"),
        ("[]", "no classes"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "t.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=message) as error:
        Task.load(tmp_path / "t.yaml")
    assert "\n" not in str(error.value)


def test_names_that_are_nothing():
    with pytest.raises(TaskError, match="did you mean cifar10"):
        Task.load("cifar-10")
    with pytest.raises(TaskError, match="`retroclip tasks` lists them"):
        Task.load("qqq")
    with pytest.raises(TaskError, match="can't read the task file"):
        Task.load("missing.yaml")


def test_tasks_are_exported():
    assert set(tasks.__all__) >= {"Task", "catalogue"}
