import numpy as np
import pytest

from retroclip.tasks.wordnet import Synset, parse_noun
from retroclip.training.builtin.hierarchy import Hierarchy

SYNSETS = {
    s.id: s
    for s in [
        Synset("n0", ("thing",), "", ()),
        Synset("n1", ("animal",), "", ("n0",)),
        Synset("n2", ("dog",), "", ("n1",)),
        Synset("n3", ("beagle",), "", ("n2",)),
        Synset("n4", ("pug",), "", ("n2",)),
        Synset("n5", ("cat",), "", ("n1", "n0")),
        Synset("n6", ("car",), "", ("n0",)),
    ]
}


@pytest.fixture
def hierarchy() -> Hierarchy:
    return Hierarchy(["n3", "n4", "n5", "n6"], SYNSETS)


def test_every_cut_partitions_the_leaves(hierarchy):
    seen = set()
    for seed in range(50):
        nodes, members = hierarchy.cut(np.random.default_rng(seed), always=1000)
        assert sorted(leaf for leaves in members for leaf in leaves) == [0, 1, 2, 3]
        seen.add(tuple(sorted(nodes)))
    assert ("n0",) in seen and ("n2", "n5", "n6") in seen and ("n3", "n4", "n5", "n6") in seen


def test_nodes_above_the_limit_are_always_split(hierarchy):
    for seed in range(20):
        nodes, _ = hierarchy.cut(np.random.default_rng(seed), always=1)
        assert sorted(nodes) == ["n3", "n4", "n5", "n6"]


def test_a_leaf_above_a_leaf_stays_a_leaf():
    hierarchy = Hierarchy(["n2", "n3", "n6"], SYNSETS)
    nodes, members = hierarchy.cut(np.random.default_rng(0), always=1)
    assert dict(zip(nodes, members, strict=True)) == {"n2": [0], "n3": [1], "n6": [2]}


def test_a_sampled_cut_keeps_the_heavy_nodes(hierarchy):
    mass = np.array([0.1, 0.1, 5.0, 0.2])
    cut = hierarchy.sampled_cut(np.random.default_rng(1), mass, size=2)
    assert len(cut.nodes) <= 2
    assert cut.membership[2] == 0
    for leaf, node in enumerate(cut.membership):
        assert node == -1 or leaf in hierarchy.below[cut.nodes[node]]


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
