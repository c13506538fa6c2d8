import numpy as np
import pytest

from retroclip.errors import RetroclipError
from retroclip.training.pretraining.texts import ClassTexts

ROWS = [("Red", "x/n01531178_1"), ("green", "x/n02084071_1"), ("blue", "b"), ("red", "x/n01531178_2"), ("odd", "o")]


def test_names_that_differ_in_case_are_one_class():
    texts = ClassTexts(ROWS)
    assert texts.names == ["blue", "green", "odd", "Red"]
    assert texts.index("RED") == 3 and texts.glosses == [None] * 4


def test_synsets_come_from_keys_or_names_and_bring_glosses(wordnet):
    texts = ClassTexts(ROWS, wordnet=wordnet, synsets={"blue": "n02110341"}, gloss_share=1.0)
    assert texts.synset == ["n02110341", "n02084071", None, "n01531178"]
    rng = np.random.default_rng(0)
    assert all(texts.draw(1, rng).endswith(", a green bird") for _ in range(5))
    assert "green" in texts.draw(1, rng) and ", " not in texts.draw(2, rng)


def test_a_file_of_descriptions_goes_before_wordnet(wordnet, tmp_path):
    file = tmp_path / "said.yaml"
    file.write_text("RED: the colour of blood.\n")
    texts = ClassTexts(ROWS, wordnet=wordnet, descriptions=file, gloss_share=1.0)
    assert texts.draw(3, np.random.default_rng(0)).endswith(", the colour of blood")
    assert texts.glosses[1] == "a green bird"
    file.write_text("- red")
    with pytest.raises(RetroclipError, match="mapping"):
        ClassTexts(ROWS, descriptions=file)


def test_a_cut_gives_each_class_one_ancestor_of_its_own(wordnet):
    texts = ClassTexts(ROWS, wordnet=wordnet, synsets={"blue": "n02110341"})
    classes = np.array([0, 1, 2, 3])
    shapes = set()
    for seed in range(20):
        numbers, said = texts.cut(classes, np.random.default_rng(seed))
        assert numbers[2] == -1  # "odd" has no synset
        assert numbers.max() < len(said)
        together = numbers[1] == numbers[3]  # red and green are birds; blue is a dog
        assert (numbers[0] != numbers[1]) or together
        words = {"bird", "animal"} if together else {"red", "green"}
        assert any(word in said[numbers[1]] for word in words)
        shapes.add(bool(together))
    assert shapes == {True, False}


CRANES = [("crane", "x/n02012849_1"), ("Crane", "x/n03126707_1"), ("crane", "x/n02012849_2"), ("red", "x/n01531178_1")]


def test_classes_of_one_name_that_descriptions_tell_apart_stay_apart(wordnet):
    texts = ClassTexts(CRANES, wordnet=wordnet, gloss_share=0.25)
    assert texts.names == ["crane", "crane", "red"]
    assert texts.synset == ["n02012849", "n03126707", "n01531178"]
    assert [texts.index(label, key) for label, key in CRANES] == [0, 1, 0, 2]
    rng = np.random.default_rng(0)
    # named alone the two would be one text with two answers
    assert all(texts.draw(0, rng).endswith(", a large bird that wades") for _ in range(20))
    assert all(texts.draw(1, rng).endswith(", a machine that lifts") for _ in range(20))
    assert not all(texts.draw(2, rng).endswith(", a red bird") for _ in range(20))


def test_without_descriptions_one_name_is_one_class(wordnet):
    for texts in (ClassTexts(CRANES), ClassTexts(CRANES, wordnet=wordnet)):
        assert texts.names == ["crane", "red"]
        assert [texts.index(label, key) for label, key in CRANES] == [0, 0, 0, 1]


def test_one_description_for_a_name_makes_it_one_class(wordnet, tmp_path):
    file = tmp_path / "said.yaml"
    file.write_text("crane: something tall\n")
    assert ClassTexts(CRANES, wordnet=wordnet, descriptions=file, gloss_share=1.0).names == ["crane", "red"]
    file.write_text("n02012849: a bird\nn03126707: a machine\n")
    apart = ClassTexts(CRANES, descriptions=file, gloss_share=1.0)
    assert (apart.names, apart.glosses) == (["crane", "crane", "red"], ["a bird", "a machine", None])


def test_rows_that_do_not_say_which_class_of_their_name_they_show(wordnet, tmp_path):
    said = tmp_path / "said.yaml"
    said.write_text("n02012849: a bird\nn03126707: a machine\n")
    rows = [("crane", "a/1"), *CRANES]
    # the first sense in the folder's index is the machine
    assert ClassTexts(rows, wordnet=wordnet, gloss_share=1.0).index("crane", "a/1") == 1
    # nothing is known of the name itself: the first class, not a third one called just "crane"
    texts = ClassTexts(rows, descriptions=said, gloss_share=1.0)
    assert (texts.names, texts.index("crane", "a/1")) == (["crane", "crane", "red"], 0)
    # a synset named for the name goes before the ids in keys, with its description
    given = {"crane": "n03126707"}
    texts = ClassTexts(CRANES, wordnet=wordnet, synsets=given, descriptions=said, gloss_share=1.0)
    assert (texts.names, texts.synset[0], texts.glosses[0]) == (["crane", "red"], "n03126707", "a machine")
    # of a single id the rest are that class
    texts = ClassTexts([rows[0], rows[1]], wordnet=wordnet, gloss_share=1.0)
    assert (texts.synset, texts.index("crane", "a/1")) == (["n02012849"], 0)
