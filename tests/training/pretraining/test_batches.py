import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from retroclip.training.pretrain import read_recipe
from retroclip.training.pretraining import batches as batches_module
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.train import class_texts, fresh_encoder, make_batches


@pytest.fixture
def drawn(tiny_recipe, tmp_path):
    def make(**fields):
        recipe = read_recipe(tiny_recipe(tmp_path, **fields))
        corpora = [Corpus(s, recipe.data, recipe.work / "images", recipe.cache_size) for s in recipe.sources]
        corpora = [corpus.build(lambda line: None) for corpus in corpora]
        return make_batches(recipe, corpora, class_texts(recipe, corpora), fresh_encoder(recipe)), corpora

    return make


def test_a_batch_is_a_function_of_the_step(drawn):
    batches, _ = drawn(ancestors=0.5, jitter=0.2, coarse=0.5)
    first, again, next_one = batches.at(3), batches.at(3), batches.at(4)
    assert torch.equal(first["pixels"], again["pixels"]) and torch.equal(first["captions"], again["captions"])
    assert not torch.equal(first["pixels"], next_one["pixels"])
    assert list(batches(0))[3]["counts"] == first["counts"]


def test_labels_point_at_the_text_of_their_class(drawn):
    batches, corpora = drawn()
    batch = batches.at(0)
    assert batch["counts"] == {"pixels": 7, "captions": 4, "names": 3}
    assert batch["pixels"].shape == (7, 3, 16, 16)
    assert batch["labels"][:4].tolist() == [-1] * 4
    names = [batches.texts.names[c] for c in batch["classes"][4:]]
    assert names == [corpora[1].rows[row]["label"] for row in batch["rows"][1]]
    assert batch["labels"][4:].tolist() == batch["classes"][4:].tolist()  # all three classes are told apart
    assert bool(batch["allowed"].all()) and batch["allowed"].shape == (3, 3)


def test_images_of_one_name_and_two_descriptions_have_a_text_each(drawn, squares, tmp_path):
    table = pq.read_table(squares / "labelled.parquet")
    ids = ["n02012849", "n03126707"]
    keys = [f"{ids[row % 2]}_{row}" for row in range(len(table))]
    columns = {"image": table["image"], "label": ["crane"] * len(table), "key": keys}
    pq.write_table(pa.table(columns), tmp_path / "cranes.parquet")
    source = {"name": "cranes", "file": str(tmp_path / "cranes.parquet"), "share": 6, "text": "labels"}
    batches, corpora = drawn(sources=[source], gloss_share=1.0)
    batch = batches.at(0)
    assert batch["counts"]["names"] == 2
    assert batch["labels"].tolist() == [ids.index(corpora[0].rows[row]["key"][:9]) for row in batch["rows"][0]]


def test_without_negatives_only_the_classes_of_the_batch_are_there(drawn):
    batches, _ = drawn(negatives=0)
    for step in range(6):
        batch = batches.at(step)
        present = sorted(set(batch["classes"][4:].tolist()))
        assert batch["counts"]["names"] == len(present)
        assert [present[label] for label in batch["labels"][4:]] == batch["classes"][4:].tolist()


def test_two_sources_are_told_from_their_own_classes(drawn):
    sources = [
        {"name": "one", "file": "labelled.parquet", "share": 2, "text": "labels", "limit": 2},
        {"name": "all", "file": "labelled.parquet", "share": 3, "text": "labels"},
    ]
    batches, _ = drawn(sources=sources)
    batch = batches.at(0)
    assert batch["counts"]["names"] == 3 and batch["allowed"].sum(1).tolist() == [2, 2, 3, 3, 3]
    assert all(batch["allowed"][row, label] for row, label in enumerate(batch["labels"]))


def test_shares_of_two_processes_are_the_batch(drawn, monkeypatch):
    batches, _ = drawn(ancestors=0.5, jitter=0.2, coarse=0.5, rand_augment="rand-m9-mstd0.5-inc1")
    whole = batches.at(1)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(
            batches_module, "own_rows", lambda count, rank=rank: slice(count * rank // 2, count * (rank + 1) // 2)
        )
        parts.append(batches.at(1))
    torch.testing.assert_close(torch.cat([part["pixels"] for part in parts]), whole["pixels"])
    for name in ("captions", "names", "cut"):
        length = whole[name].shape[1]
        padded = [torch.nn.functional.pad(p[name], (0, length - p[name].shape[1])) for p in parts]
        assert torch.equal(torch.cat(padded), whole[name])
    assert torch.equal(parts[0]["labels"], whole["labels"])
    assert np.array_equal(parts[1]["rows"][0], whole["rows"][0])
