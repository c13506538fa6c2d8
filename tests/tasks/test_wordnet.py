from retroclip.tasks.wordnet import parse_noun


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
