import numpy as np
import pytest
import torch

from retroclip.encoders import Encoder
from retroclip.errors import RetroclipError
from retroclip.pairs import read_pairs, thumbnail
from retroclip.training.pretrain import read_recipe
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.reference import References


@pytest.fixture
def opened(tiny_recipe, tiny_model, tmp_path):
    def make(**fields):
        given = {"heads": 2} | fields
        recipe = read_recipe(tiny_recipe(tmp_path, "ra-clip", retriever=str(tiny_model()), **given))
        corpora = [Corpus(s, recipe.data, recipe.work / "images", recipe.cache_size) for s in recipe.sources]
        return References(recipe, [corpus.build(lambda line: None) for corpus in corpora], 16), recipe

    return make


def test_reference_pairs_are_of_all_sources_and_never_train(opened):
    references, recipe = opened(reference=0.25, k=3)
    assert [len(held) for held in references.held] == [6, 4]
    for held, kept, count in zip(references.held, references.kept, (24, 18), strict=True):
        assert sorted([*held, *kept]) == list(range(count))
    assert references.found([references.kept[0][:2], references.kept[1][:3]]).shape == (5, 3)
    assert int(references.found(references.kept).max()) < 10
    assert references.augmentation.ram.length == 1
    pairs = [list(read_pairs(recipe.data / source.file)) for source in recipe.sources]
    held = [own[row] for own, rows in zip(pairs, references.held, strict=True) for row in rows]
    texts = [pair.captions[0] if pair.captions else f"a photo of a {pair.label}." for pair in held]
    expected = [references.retriever.encode_images([pair.image for pair in held])]
    expected.append(references.retriever.encode_texts(texts))
    for found, wanted in zip(references.augmentation.reference, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    shown = torch.from_numpy(np.stack([thumbnail(pair.image) for pair in held]))
    torch.testing.assert_close(references.thumbnails.float(), shown, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"heads": 3}, "3 attention heads can't share 16"), ({"reference": 0.99}, "leaves a source no pair to train on")],
)
def test_what_can_not_be_trained_is_said(opened, fields, said):
    with pytest.raises(RetroclipError, match=said):
        opened(**fields)


def test_a_run_that_goes_on_looks_nothing_up_anew(opened, monkeypatch):
    first, _ = opened(length=2.0)
    monkeypatch.setattr(Encoder, "encode_images", lambda *args, **given: pytest.fail("embedded again"))
    again, _ = opened(length=2.0)
    assert again.augmentation.ram.length == 2
    for one, other in zip(first.neighbours, again.neighbours, strict=True):
        assert torch.equal(one, other)


def test_of_few_pairs_there_is_nothing_to_refer_to(opened):
    source = {"name": "labelled", "file": "labelled.parquet", "share": 3, "text": "labels", "limit": 4}
    with pytest.raises(RetroclipError, match="too small"):
        opened(sources=[source])
