"""Captions that name a class."""

import pytest

from retroclip.retrieval.select import ClassNames, members, named_classes, singular, words
from retroclip.tasks import Task


@pytest.fixture
def task() -> Task:
    return Task(
        "animals",
        classes=["horse", "sea_horse", "dog", "hot dog", "mouse", "butterfly", "bus", "faces", "猫"],
        synonyms={"dog": ["hound"], "butterfly": ["Monarch-butterfly"]},
    )


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A horse in a field", {"horse"}),
        ("HORSES!", {"horse"}),
        ("a sea horse among weeds", {"sea_horse"}),
        ("two Sea-Horses and a horse", {"sea_horse", "horse"}),
        ("eating a hot dog", {"hot dog"}),
        ("a hot sunny day, the dog sleeps", {"dog"}),
        ("greyhound racing", set()),
        ("the hound's bowl", {"dog"}),
        ("mice eat cheese", {"mouse"}),
        ("butterflies", {"butterfly"}),
        ("a monarch butterfly", {"butterfly"}),
        ("red buses", {"bus"}),
        ("a business", set()),
        ("a human face", {"faces"}),
        ("可爱的猫在睡觉", {"猫"}),
        ("", set()),
    ],
)
def test_whole_words_in_any_number(task, caption, classes):
    assert {task.classes[index] for index in ClassNames(task).named_in(caption)} == classes


def test_all_captions_of_a_pair_count_and_turn_round(task):
    named = named_classes([("a dog", "a horse"), (), ("hounds",)], task)
    assert named == [(0, 2), (), (2,)]
    rows = members(named, len(task.classes))
    assert rows[2].tolist() == [0, 2]
    assert rows[0].tolist() == [0]
    assert rows[1].tolist() == []


@pytest.mark.parametrize(
    ("plural", "one"),
    [("glasses", "glass"), ("houses", "house"), ("foxes", "fox"), ("tomatoes", "tomato"), ("shoes", "shoe"),
     ("cherries", "cherry"), ("cars", "car"), ("children", "child"), ("churches", "church"), ("gas", "gas")],
)  # fmt: skip
def test_singular_and_plural_meet(plural, one):
    assert singular(plural) == singular(one)


def test_words_ignore_punctuation_and_case():
    assert words('"Two" Sea-Horses, swim_ming.') == ("two", "sea", "horse", "swim", "ming")
