from types import SimpleNamespace

from retroclip.classifiers import most_frequent_names, named_classes


def test_names_are_whole_words_in_any_case_with_plurals_and_synonyms(task):
    captions = [("A CAT!",), ("catalogue",), ("three cats and horses",), ("the kitty",), (), ("",)]
    assert named_classes(captions, task) == [(0,), (), (0, 2), (0,), (), ()]


def test_the_longest_name_wins_where_they_overlap(task):
    assert named_classes([("a sea-horse",), ("a sea horse and a horse",)], task) == [(1,), (1, 2)]


def test_names_that_are_patterns_or_other_scripts_are_plain_words():
    task = SimpleNamespace(classes=["c++", "кошка", "犬"], synonyms={})
    assert named_classes([("Рыжая Кошка",), ("cc",), ("犬 on grass",)], task) == [(1,), (), (2,)]


def test_most_frequent_name_of_a_class(task):
    captions = [("a tabby",), ("tabby and horse",), ("a kitty",), ("a cat",)]
    assert most_frequent_names(task, captions) == {"cat": "tabby", "sea horse": "sea horse", "horse": "horse"}
