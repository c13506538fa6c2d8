"""Neighbours without the sample itself and without its near-duplicates."""

import numpy as np
import pytest
import torch

from retroclip.memory import Memory
from retroclip.pairs import Pair
from retroclip.retrieval import neighbours


def by_loop(keys, query, image, images, k, threshold, excluded) -> list[int]:
    ranked = sorted(range(len(keys)), key=lambda row: -float(query @ keys[row]))
    near = {row for row in ranked if threshold is not None and float(image @ images[row]) > threshold}
    return [row for row in ranked if row not in excluded and row not in near and keys[row].norm() > 0][:k]


@pytest.mark.parametrize("threshold", [None, 0.999, 0.97, 0.5])
def test_by_image(memory, threshold):
    images = memory.embeddings()
    own = np.arange(0, 90, 7)
    found = neighbours(memory, images[own], k=6, exclude_self_ids=own, near_threshold=threshold)
    assert found.ids.shape == found.mask.shape == found.scores.shape == (len(own), 6)
    for position, row in enumerate(own.tolist()):
        wanted = by_loop(images, images[row], images[row], images, 6, threshold, {row})
        assert found.ids[position][found.mask[position]].tolist() == wanted
        assert np.isneginf(found.scores[position][~found.mask[position]]).all()
    assert np.array_equal(found.mask, found.ids >= 0)


def test_by_text_near_duplicates_are_those_of_the_image(memory):
    images, texts = memory.embeddings(), memory.embeddings(of="text")
    own = np.array([1, 31, 61, 80])
    options = {"by": "text", "k": 8, "exclude_self_ids": own}
    found = neighbours(memory, texts[own], images=images[own], near_threshold=0.97, **options)
    for position, row in enumerate(own.tolist()):
        wanted = by_loop(texts, texts[row], images[row], images, 8, 0.97, {row})
        assert found.ids[position][found.mask[position]].tolist() == wanted
    same_text = neighbours(memory, texts[own], **options)
    assert same_text.mask.all()
    assert not (same_text.ids == own[:, None]).any()


def test_many_copies_do_not_use_up_the_places(tmp_path, encoder, stub):
    copies = [Pair(f"copy{i}", stub.photo(1)) for i in range(40)]
    others = [Pair(f"other{i}", stub.photo(50 + i)) for i in range(8)]
    memory = Memory.create(tmp_path / "m", encoder, [copies, others])
    found = neighbours(memory, memory.embeddings([0]), k=5, exclude_self_ids=[[0]], near_threshold=0.9999)
    assert found.mask.all()
    assert (found.ids >= 40).all()
    everything = neighbours(memory, memory.embeddings([0]), k=30, exclude_self_ids=[[0]], near_threshold=0.9999)
    assert everything.mask.sum() == 8


def test_ids_for_each_query(memory):
    with pytest.raises(ValueError, match="1 entries for 2 queries"):
        neighbours(memory, torch.ones(2, 24), exclude_self_ids=[[1]])
