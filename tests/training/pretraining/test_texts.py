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
