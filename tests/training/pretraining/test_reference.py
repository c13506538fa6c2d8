import pytest

from retroclip.errors import RetroclipError
from retroclip.training.pretrain import read_recipe
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.reference import References


@pytest.fixture
def opened(tiny_recipe, tiny_model, tmp_path):
    def make(**fields):
        recipe = read_recipe(tiny_recipe(tmp_path, "ra-clip", retriever=str(tiny_model()), heads=2, **fields))
        corpora = [Corpus(s, recipe.data, recipe.work / "images", recipe.cache_size) for s in recipe.sources]
        return References(recipe, [corpus.build(lambda line: None) for corpus in corpora], 16), recipe

    return make


def test_reference_pairs_are_captioned_and_never_train(opened):
    references, _ = opened(reference=0.25, k=3)
    assert [len(held) for held in references.held] == [6, 0]
    for held, kept, count in zip(references.held, references.kept, (24, 18), strict=True):
        assert sorted([*held, *kept]) == list(range(count))
    assert references.found([references.kept[0][:2], references.kept[1][:3]]).shape == (5, 3)
    assert int(references.found(references.kept).max()) < 6


def test_without_captions_there_is_nothing_to_refer_to(opened):
    with pytest.raises(RetroclipError, match="captioned source"):
        opened(sources=[{"name": "labelled", "file": "labelled.parquet", "share": 3, "text": "labels"}])
