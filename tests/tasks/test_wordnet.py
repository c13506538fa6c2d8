import pytest

from retroclip.errors import SourceError
from retroclip.tasks.wordnet import Synset, ancestors, parse_noun, read_senses, synset_of


def test_a_line_of_wordnet():
    line = (
        "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 003 @ 02083346 n 0000 @i 01317541 n 0000 "
        '%p 02158846 n 0000 | a member of the genus Canis; occurs in many breeds; "the dog barked all night"'
    )
    dog = parse_noun(line)
    assert dog.id == "n02084071"
    assert dog.lemmas == ("dog", "domestic dog", "Canis familiaris")
    assert dog.hypernyms == ("n02083346", "n01317541")
    assert dog.gloss == "a member of the genus Canis; occurs in many breeds"


def test_senses_come_in_the_order_of_the_index(tmp_path):
    (tmp_path / "index.noun").write_text(
        "  1 This software and database\nseal n 2 3 @ ~ + 2 0 04160036 02076196  \nsea_lion n 1 1 @ 1 0 02077152  \n"
    )
    senses = read_senses(tmp_path)
    assert senses == {"seal": ("n04160036", "n02076196"), "sea lion": ("n02077152",)}
    assert synset_of("Seal", senses, {"n02076196", "n02077152"}) == "n02076196"
    assert synset_of("seals", senses, {"n04160036"}) == "n04160036"
    assert synset_of("old sea lion", senses, {"n02077152", "n02076196"}) == "n02077152"
    assert synset_of("grey seal", senses, {"n02076196"}) == "n02076196"
    assert synset_of("walrus", senses, {"n02076196"}) is None
    with pytest.raises(SourceError, match="no WordNet noun index"):
        read_senses(tmp_path / "elsewhere" / "data.noun")


def test_ancestors_follow_the_first_hypernym():
    nodes = {"a": (), "b": ("a",), "c": ("b", "a")}
    synsets = {id_: Synset(id_, (id_,), "", hypernyms) for id_, hypernyms in nodes.items()}
    assert ancestors("c", synsets) == ["a", "b", "c"]
