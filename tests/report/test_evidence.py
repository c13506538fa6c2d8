"""Evidence: the right rows, drawn fairly, with their neighbours."""

import types

import numpy as np
import pyarrow as pa
import pytest
import torch

from retroclip.evaluation import Samples
from retroclip.report import collect_examples, collect_retrieved, spread, summarise_memory
from retroclip.tasks import Task

ROWS = {
    "image": [b"i0", b"i1", None, b"i3"],
    "caption": ["a tabby cat", "two dogs", None, "a lorry"],
    "captions": [["a tabby cat"], ["nothing", "two dogs"], None, ["a lorry, hot dogged"]],
    "source": ["a", "a", "b", None],
    "license": ["CC0", "CC BY", None, None],
}


class TinyMemory:
    """Four pairs on the axes of the plane."""

    vectors = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0], [0, -1.0]])

    def ids(self):
        return np.arange(4)

    def take(self, ids, columns):
        return pa.table({name: [ROWS[name][i] for i in ids] for name in columns})

    def search(self, queries, *, by, k):
        assert by == "image"
        scores = (queries @ self.vectors.T).numpy()
        ids = np.argsort(-scores, axis=1)[:, :k]
        found = np.take_along_axis(scores, ids, axis=1)
        ids[:, -1] = -1
        return types.SimpleNamespace(ids=ids, scores=found)


@pytest.fixture
def pets():
    return Task("pets", classes=["cat", "dog"], synonyms={"dog": ["hound"]})


def test_examples_are_the_changed_images_with_their_neighbours(make_result, make_outcome):
    labels = [0, 1, 1, 0, 1, 0]
    base = make_result("zero-shot", 0.5, outcomes=[make_outcome(labels, [0, 0, 0, 1, 1, 0])])
    after = make_result("primed", 0.5, outcomes=[make_outcome(labels, [0, 1, 1, 1, 0, 0])])
    samples = Samples("pets", "val", [*"abcdef"], [b"%d" % i for i in range(6)], np.array(labels), ["cat", "dog"])
    queries = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [1, 0], [-1, 0], [1, 0]])
    examples = collect_examples(base, after, samples, TinyMemory(), queries, k=3)
    assert [example.key for example in examples] == ["b", "c", "e"]
    assert [(e.helped, e.hurt) for e in examples] == [(True, False), (True, False), (False, True)]
    assert (examples[0].truth, examples[0].before, examples[0].after) == ("dog", "cat", "dog")
    assert examples[0].image == b"1"
    first = examples[0].neighbours[0]
    assert (first.caption, first.image, first.score, first.source) == ("two dogs", b"i1", 1.0, "a")
    assert [len(e.neighbours) for e in examples] == [2, 2, 2]
    assert examples[2].neighbours[0].caption == ""
    assert len(collect_examples(base, after, samples, TinyMemory(), queries, helped=1, hurt=0, k=3)) == 1
    assert collect_examples(base, base, samples, TinyMemory(), queries) == []


def test_memory_is_counted_by_source_with_the_captions_that_name_a_class(pets):
    summary = summarise_memory(TinyMemory(), pets, name="m")
    assert summary.pairs == summary.read == 4
    rows = {row.source: row for row in summary.sources}
    assert (rows["a"].pairs, rows["a"].captioned, rows["a"].naming) == (2, 2, 2)
    assert rows["a"].licences == ["CC BY", "CC0"]
    assert (rows["b"].pairs, rows["b"].captioned) == (1, 0)
    assert rows["unnamed"].naming == 0
    assert summary.naming_share == 0.5


def test_retrieved_pairs_are_shown_under_their_best_class(pets):
    retrieved = types.SimpleNamespace(
        classes=[(1, 0), (0,), (1,), (1,)],
        scores=np.array([0.3, 0.9, 0.5, 0.4]),
        images=[b"0", b"1", None, b"3"],
        captions=[("zero", "more"), ("one",), (), ("three",)],
    )
    dog, cat = collect_retrieved(retrieved, pets, ["dog", "cat"], per_class=2)
    assert (dog.found, [pair.caption for pair in dog.pairs]) == (3, ["", "three"])
    assert (cat.found, cat.pairs[0].image) == (1, b"1")


def test_spread_takes_both_ends():
    assert spread([*"abcdefg"], 3) == ["a", "d", "g"]
    assert spread([*"ab"], 3) == ["a", "b"]
    assert spread([*"abc"], 1) == ["a"]
