from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from retroclip.encoders import load, precision
from retroclip.errors import MemoryStoreError, ModelError
from retroclip.fusion import MemoryEncoder
from retroclip.memory import Memory
from retroclip.pairs import Pair
from retroclip.training import fuse
from retroclip.training.fuse import fusion_examples


@pytest.mark.parametrize("options", [{}, {"init": "plain"}, {"kind": "ra-clip"}], ids=["identity", "plain", "ra-clip"])
def test_a_trained_fusion_lowers_its_loss(encoder, memory, options):
    fused = fuse(encoder, memory, k=4, epochs=20, batch_size=12, **options)
    assert fused.history["contrast"][-1] < fused.history["contrast"][0]
    assert fused.trained_parameters == sum(p.numel() for p in fused.fusion.parameters()) > 0
    rows = fused.encode_images([memory.take(memory.ids()[:1], ["image"])["image"][0].as_py()])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1))


def test_the_mean_trains_nothing(encoder, memory):
    fused = fuse(encoder, memory, kind="mean", k=4, weight=0.3)
    assert fused.trained_parameters == 0 and fused.fusion.weight == 0.3 and fused.products is None


@pytest.mark.parametrize(("fast", "products"), [(True, "bf16"), (False, "fp32")])
def test_the_number_format_that_a_timing_chose_is_recorded(encoder, memory, tmp_path, monkeypatch, fast, products):
    monkeypatch.setattr(precision, "_settled", [fast])
    fused = fuse(encoder, memory, k=4, epochs=1, batch_size=12)
    assert fused.products == fused.with_memory(memory).products == products
    assert load(fused.save(tmp_path / "fused")).products == products


def test_no_training_pair_sees_itself_or_a_copy_of_its_picture(encoder, memory):
    fused = MemoryEncoder(encoder, memory, fuse(encoder, memory, epochs=0, batch_size=12).fusion, k=24)
    examples = fusion_examples(fused, encoder, memory)
    images = memory.embeddings()
    for side in ("image", "text"):
        near = examples.neighbours[side]
        for row, ids in enumerate(near.ids):
            found = ids[ids >= 0]
            assert memory.ids()[row] not in found
            cosines = images[row] @ memory.embeddings(found).T
            assert (cosines <= 0.95).all()


def test_pairs_with_the_same_captions_are_positives_of_each_other(encoder, memory):
    fused = fuse(encoder, memory, kind="mean")
    fused.fusion.sides = ("image", "text")
    labels = fusion_examples(fused, encoder, memory).labels
    assert labels.tolist() == [0, 1, 2] * 8


def test_trained_on_other_pairs(encoder, memory, make_pairs):
    fused = fuse(encoder, memory, train=[make_pairs(4, seed=3)], k=4, epochs=2, batch_size=12)
    assert len(fused.history.rows) > 0


def test_distance_from_the_start_is_held(encoder, memory):
    free = fuse(encoder, memory, k=4, epochs=30, batch_size=24, lr=0.05, anchor=0.0)
    held = fuse(encoder, memory, k=4, epochs=30, batch_size=24, lr=0.05, anchor=1.0)
    moved = [float((f.fusion.layers["image"].w_value - torch.eye(32)).norm()) for f in (free, held)]
    assert moved[1] < 0.5 * moved[0]


def test_a_killed_training_loses_a_twentieth_of_its_steps(encoder, memory, tmp_path):
    def kill(row):
        if row["step"] == 29:
            raise KeyboardInterrupt

    options = {"k": 4, "epochs": 40, "batch_size": 24, "checkpoint": tmp_path / "state"}
    with pytest.raises(KeyboardInterrupt):
        fuse(encoder, memory, on_log=kill, **options)
    assert json.loads((tmp_path / "state" / "progress.json").read_text())["step"] == 28
    assert fuse(encoder, memory, **options).history["step"][-1] == 40


def test_saved_and_loaded_with_its_memory(encoder, memory, tmp_path):
    fused = fuse(encoder, memory, k=4, epochs=2, batch_size=12)
    fused.save(tmp_path / "reco")
    again = load(tmp_path / "reco", precision="fp32", device="cpu")
    texts = ["a photo of a red.", "something else"]
    torch.testing.assert_close(again.encode_texts(texts), fused.encode_texts(texts), atol=1e-5, rtol=0)
    assert isinstance(again, MemoryEncoder) and again.kind == "reco" and again.k == 4


def test_a_memory_without_captions_or_of_another_model_is_refused(encoder, memory, make_pairs, tmp_path):
    bare = [Pair(pair.key, pair.image) for pair in make_pairs(2)]
    empty = Memory.create(tmp_path / "bare", encoder, [bare])
    with pytest.raises(MemoryStoreError, match="no pair of this memory has a caption"):
        fuse(encoder, empty)
    other = encoder.copy()
    with torch.no_grad():
        other.model.visual.proj.add_(0.1)
    with pytest.raises(MemoryStoreError, match="was made by"):
        fuse(other, memory)


def test_partly_captioned_memory_fuses_only_what_has_text(encoder, make_pairs, tmp_path):
    mixed = [Pair(p.key, p.image, p.captions if i % 2 else ()) for i, p in enumerate(make_pairs(4))]
    partly = Memory.create(tmp_path / "partly", encoder, [mixed])
    fused = fuse(encoder, partly, k=3, epochs=2, batch_size=12)
    found = fused.neighbours(partly.embeddings()[:5], "image", k=3)
    assert np.isin(found.ids, partly.ids()[np.asarray(partly.has_text())]).all()


def test_an_unknown_kind_names_the_known_ones(encoder, memory):
    with pytest.raises(ModelError, match="choose one of mean, centred-mean, reco, ra-clip"):
        fuse(encoder, memory, kind="sum")


def test_ra_clips_input_is_as_long_as_the_root_of_its_numbers(encoder, memory):
    assert fuse(encoder, memory, kind="ra-clip", epochs=0).fusion.length == pytest.approx(32**0.5)
    assert fuse(encoder, memory, kind="ra-clip", epochs=0, length=1.0).fusion.options["length"] == 1
