import json

import numpy as np
import pytest
import torch

from retroclip.errors import MemoryStoreError, ModelError
from retroclip.fusion import (
    MeanFusion,
    MemoryEncoder,
    RecoFusion,
    RetrievalAugmentation,
    build_fusion,
    find_neighbours,
    load_memory_encoder,
    mean_fusion,
)


def test_uni_modal_search_cross_modal_values(memory):
    images, texts = memory.parts["image"], memory.parts["text"]
    query = images[[7, 20]] * 1.0
    found = find_neighbours(memory, query, side="image", k=3)
    best = (query @ images.T).topk(3).indices
    np.testing.assert_array_equal(found.ids, best.numpy() + 100)
    torch.testing.assert_close(found.values, texts[best])
    torch.testing.assert_close(found.keys, images[best])
    torch.testing.assert_close(found.scores, (query @ images.T).topk(3).values)
    other = find_neighbours(memory, texts[[9]], side="text", k=2)
    torch.testing.assert_close(other.values[0, 0], images[9])


def test_the_other_combinations_of_the_ablation(memory):
    images, texts = memory.parts["image"], memory.parts["text"]
    crossed = find_neighbours(memory, texts[[9]], side="image", k=1, search="cross-modal", values="uni-modal")
    torch.testing.assert_close(crossed.values[0, 0], images[9])
    torch.testing.assert_close(crossed.keys[0, 0], texts[9])
    with pytest.raises(ValueError, match="'uni-modal' or 'cross-modal'"):
        find_neighbours(memory, texts[[9]], side="image", k=1, search="sideways")


def test_without_retrieval_a_query_is_its_own_neighbour(memory, encoder):
    """The control of equal capacity: nothing of the memory reaches the fusion."""
    torch.manual_seed(0)
    fusion = RetrievalAugmentation(16, heads=4)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    wrapped = MemoryEncoder(encoder, memory, fusion, k=3, values="query")
    before, query = memory.searches, memory.parts["image"][:4]
    found = wrapped.neighbours(query, "image", k=3)
    assert memory.searches == before and found.mask.all()
    assert all(torch.equal(part[:, j], query) for part in (found.values, found.keys) for j in range(3))
    own = query[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(wrapped.refine(query, "image"), fusion(query, own, keys=own))


def test_neighbours_without_text_are_passed_over_and_missing_ones_masked(memory, encoder):
    wrapped = MemoryEncoder(encoder, memory, MeanFusion(16))
    found = wrapped.neighbours(memory.parts["image"][[4]], "image", k=40)
    assert not np.isin([103, 104, 105], found.ids).any()
    assert found.mask.sum() == 37 and (found.values[0, 37:] == 0).all()


def test_images_are_refined_by_the_texts_of_their_neighbours(memory, encoder):
    wrapped = MemoryEncoder(encoder, memory, MeanFusion(16, weight=0.4), k=3)
    images = memory.parts["image"][[10, 11]]
    expected = mean_fusion(images, memory.parts["text"][(images @ memory.parts["image"].T).topk(3).indices], 0.4)
    torch.testing.assert_close(wrapped.encode_images(images), expected)
    torch.testing.assert_close(wrapped.encode_texts(["a bird"]), encoder.encode_texts(["a bird"]))
    assert wrapped.dim == 16 and wrapped.logit_scale == 20.0 and wrapped.name == "arrays + mean"


def test_texts_are_searched_and_refined_once(memory, encoder):
    wrapped = MemoryEncoder(encoder, memory, RecoFusion(16), k=3, k_text=7)
    first = wrapped.encode_texts(["a bird", "a red bus", "a bird"])
    calls, searches = encoder.calls, memory.searches
    torch.testing.assert_close(wrapped.encode_texts(["a red bus", "a bird"]), first[[1, 0]])
    assert (encoder.calls, memory.searches) == (calls, searches)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_the_plain_layer_at_its_start_is_the_base_encoder(memory, encoder):
    wrapped = MemoryEncoder(encoder, memory, RecoFusion(16, init="plain"), k=3)
    images = memory.parts["image"][:9]
    assert (wrapped.encode_images(images) - encoder.encode_images(images)).abs().max() < 1e-6


def test_a_memory_without_any_caption_is_refused(make_memory, memory, encoder):
    empty = make_memory(memory.parts["image"], torch.zeros(40, 16))
    with pytest.raises(MemoryStoreError, match="no pair of this memory has a caption"):
        MemoryEncoder(encoder, empty, RecoFusion(16))


@pytest.mark.parametrize("fusion", [MeanFusion(16, 0.3), RecoFusion(16, init="plain"), RetrievalAugmentation(16)])
def test_saved_and_loaded(tmp_path, memory, encoder, fusion):
    torch.manual_seed(0)
    for parameter in fusion.parameters():
        parameter.data.normal_(std=0.3)
    wrapped = MemoryEncoder(encoder, memory, fusion, k=4, k_text=6, search="cross-modal")
    wrapped.save(tmp_path / "model")
    again = load_memory_encoder(tmp_path / "model", base=encoder, memory=memory)
    images = memory.parts["image"][:9]
    torch.testing.assert_close(again.encode_images(images), wrapped.encode_images(images))
    torch.testing.assert_close(again.encode_texts(["a bird"]), wrapped.encode_texts(["a bird"]))
    assert again.kind == wrapped.kind and again.search == "cross-modal"


def test_a_fingerprint_of_its_own(tmp_path, make_memory, memory, encoder):
    fusion = RecoFusion(16)
    wrapped = MemoryEncoder(encoder, memory, fusion, k=3)
    first = wrapped.fingerprint
    wrapped.save(tmp_path / "model")
    assert load_memory_encoder(tmp_path / "model", base=encoder, memory=memory).fingerprint == first
    grown, other = make_memory(**memory_arrays(memory)), make_memory(**memory_arrays(memory))
    grown.version, other.id = 2, "second"
    variants = [wrapped.with_memory(grown), wrapped.with_memory(other), MemoryEncoder(encoder, memory, fusion, k=4)]
    variants.append(MemoryEncoder(encoder, memory, MeanFusion(16), k=3))
    prints = [encoder.fingerprint, first, *(variant.fingerprint for variant in variants)]
    next(fusion.parameters()).data += 1
    assert len({*prints, wrapped.fingerprint}) == len(prints) + 1


def memory_arrays(memory):
    return {"images": memory.parts["image"], "texts": memory.parts["text"]}


def test_a_save_appears_whole_and_replaces_only_models(tmp_path, memory, encoder, monkeypatch):
    MemoryEncoder(encoder, memory, MeanFusion(16), k=2).save(tmp_path / "model")

    def cut_short(tensors, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("retroclip.fusion.encoder.save_file", cut_short)
    with pytest.raises(OSError, match="disk full"):
        MemoryEncoder(encoder, memory, MeanFusion(16), k=5).save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "retroclip.json").read_text())["settings"]["k"] == 2
    assert load_memory_encoder(tmp_path / "model", base=encoder, memory=memory).k == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    MemoryEncoder(encoder, memory, MeanFusion(16), k=5).save(tmp_path / "model")
    assert load_memory_encoder(tmp_path / "model", base=encoder, memory=memory).k == 5
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("mine")
    with pytest.raises(ModelError, match="is not a model"):
        MemoryEncoder(encoder, memory, MeanFusion(16)).save(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_the_memory_can_be_swapped(make_memory, memory, encoder):
    other = make_memory(memory.parts["image"], memory.parts["text"].roll(1, 0))
    wrapped = MemoryEncoder(encoder, memory, MeanFusion(16), k=2)
    wrapped.name = "mine"  # as `load` calls one
    swapped = wrapped.with_memory(other)
    assert swapped.name == "mine"
    assert not torch.allclose(
        swapped.encode_images(memory.parts["image"]), wrapped.encode_images(memory.parts["image"])
    )


def test_an_unknown_kind_is_refused():
    with pytest.raises(ModelError, match="choose one of mean, centred-mean, reco, ra-clip"):
        build_fusion("sum", dim=16)
