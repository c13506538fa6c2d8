"""Retrieval equals its definition, written out with loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from retroclip.errors import MemoryStoreError, SourceError, TaskError
from retroclip.memory import Memory
from retroclip.pairs import LabelledSet, Rejected, decode_image
from retroclip.retrieval import Retrieved, retrieve


def loops(memory, task, encoder, search, k) -> dict[int, dict[str, dict[int, float]]]:
    """{row: {mode: {class: best cosine}}} by a loop over modes, classes, templates and rows."""
    found: dict[int, dict[str, dict[int, float]]] = {}
    has_text = memory.has_text()
    for mode in search:
        rows = memory.embeddings(of="text" if mode == "t2t" else "image")
        for index, name in enumerate(task.classes):
            for template in task.templates:
                query = encoder.encode_texts([template.format(name)])[0]
                scores = {i: float(query @ rows[i]) for i in range(len(rows)) if mode == "t2i" or has_text[i]}
                for i in sorted(scores, key=lambda row: -scores[row])[:k]:
                    own = found.setdefault(i, {}).setdefault(mode, {})
                    own[index] = max(own.get(index, -2), scores[i])
    return found


class Bytes:
    """The stub with the real encoder's reading of encoded images."""

    def __init__(self, encoder):
        self.stub = encoder

    def __getattr__(self, name):
        return getattr(self.stub, name)

    def encode_images(self, images):
        return self.stub.encode_images(torch.stack([self.preprocess(decode_image(own)) for own in images]))


@pytest.mark.parametrize("search", [("t2t",), ("t2i",), ("t2i", "t2t")])
def test_union_over_templates_and_modes_with_every_class(memory, task, encoder, search):
    found = retrieve(memory, task, encoder=encoder, search=search, k=23)
    expected = loops(memory, task, encoder, search, 23)
    assert found.ids.tolist() == sorted(expected)
    for position, row in enumerate(found.ids.tolist()):
        by_mode = expected[row]
        modes = tuple(mode for mode in ("t2t", "t2i") if mode in by_mode)
        assert found.modes[position] == modes
        ranked = [c for mode in modes for c in sorted(by_mode[mode], key=lambda c, m=mode: -by_mode[m][c])]
        assert found.classes[position] == tuple(dict.fromkeys(ranked))
        assert found.scores[position] == pytest.approx(max(by_mode[modes[0]].values()), abs=1e-5)
    assert found.label.tolist() == [own[0] for own in found.classes]
    counts = found.provenance["counts"]
    assert counts["kept"] == counts["found"] == len(found)
    assert counts["rows"] == 90


def test_pairs_arrive_whole(memory, task, encoder, pairs):
    found = retrieve(memory, task, encoder=encoder, k=12)
    for position, row in enumerate(found.ids.tolist()):
        pair = pairs[row]
        assert (found.keys[position], found.images[position], found.captions[position]) == (
            pair.key,
            pair.image,
            pair.captions,
        )
        assert (found.sources[position], found.licenses[position]) == (pair.source, pair.license)
    assert torch.equal(found.image_embeddings, memory.embeddings(found.ids))
    assert torch.equal(found.text_embeddings, memory.embeddings(found.ids, of="text"))


def test_captions_decide_where_there_are_any(memory, task, encoder, pairs):
    found = retrieve(memory, task, encoder=encoder, k=10)
    for row, label, modes in zip(found.ids.tolist(), found.label.tolist(), found.modes, strict=True):
        if "t2t" in modes and pairs[row].captions and pairs[row].source == "colours":
            assert task.classes[label] in pairs[row].captions[0]


def test_where_limits_the_pairs(memory, task, encoder):
    found = retrieve(memory, task, encoder=encoder, k=50, where="source = 'stones'")
    assert len(found) == 30
    assert set(found.sources) == {"stones"}


def test_near_duplicates_of_an_evaluation_set_are_dropped_and_counted(memory, task, encoder, pairs):
    everything = retrieve(memory, task, encoder=encoder, k=90)
    assert len(everything) == 90
    images = memory.embeddings()[[3, 40]]
    near = ((everything.image_embeddings @ images.T).amax(1) > 0.99).sum()
    found = retrieve(memory, task, encoder=encoder, k=90, exclude_near=images * 3, near_threshold=0.99)
    assert found.provenance["counts"]["dropped_near_evaluation"] == near
    assert len(found) == 90 - near
    assert not {3, 40} & set(found.ids.tolist())

    labelled = LabelledSet("colours", "val", ["a", "b"], [pairs[3].image, pairs[40].image], ["red", "green"])
    same = retrieve(memory, task, encoder=Bytes(encoder), k=90, exclude_near=labelled, near_threshold=0.99)
    assert same.ids.tolist() == found.ids.tolist()
    assert same.provenance["exclude_near"] == "colours val"
    with pytest.raises(MemoryStoreError, match="exclude_near has shape"):
        retrieve(memory, task, encoder=encoder, exclude_near=torch.ones(2, 5))


def test_unreadable_images_of_an_evaluation_set_are_skipped_and_counted(memory, task, encoder, pairs):
    images = [pairs[i].image for i in range(20)]
    whole = LabelledSet("colours", "val", [str(i) for i in range(20)], images, ["red"] * 20)
    broken = [images[0][:70], *images[1:]]
    spoilt = LabelledSet(
        "colours", "val", whole.keys, broken, whole.labels, rejected=[Rejected("x", "colours", "gone")]
    )
    options = {"encoder": Bytes(encoder), "k": 90, "near_threshold": 0.9999}
    clean = retrieve(memory, task, exclude_near=whole, **options)
    found = retrieve(memory, task, exclude_near=spoilt, **options)
    assert set(found.ids.tolist()) - set(clean.ids.tolist()) == {0}
    assert clean.provenance["counts"]["unreadable_evaluation"] == 0
    assert found.provenance["counts"]["unreadable_evaluation"] == 2
    mostly = LabelledSet("colours", "val", whole.keys, [b"text"] * 3 + images[3:], whole.labels)
    with pytest.raises(SourceError, match="colours: 3 of 20 images can't be read"):
        retrieve(memory, task, exclude_near=mostly, **options)


def test_clip_score(memory, task, encoder):
    everything = retrieve(memory, task, encoder=encoder, k=90)
    scores = (everything.image_embeddings * everything.text_embeddings).sum(1).numpy()
    has_text = everything.text_embeddings.norm(dim=1).numpy() > 0
    minimum = float(np.median(scores[has_text])) + 1e-4
    found = retrieve(memory, task, encoder=encoder, k=90, min_clip_score=minimum)
    kept = ~has_text | (scores >= minimum)
    assert 30 < kept.sum() < 90
    assert found.ids.tolist() == everything.ids[kept].tolist()
    assert found.provenance["counts"]["dropped_by_clip_score"] == 90 - kept.sum()
    quantile = retrieve(memory, task, encoder=encoder, k=90, min_clip_score="quantile")
    assert 90 - len(quantile) == int(np.ceil(0.065 * (has_text.sum() - 1)))


def test_class_limit_and_repeats(memory, task, encoder):
    found = retrieve(memory, task, encoder=encoder, k=90, max_per_class=7)
    assert np.bincount(found.label.numpy(), minlength=3).tolist() == [7, 7, 7]
    repeats = retrieve(memory, task, encoder=encoder, k=90, drop_repeats=True, near_threshold=0.98)
    cosines = repeats.image_embeddings @ repeats.image_embeddings.T
    cosines.fill_diagonal_(0)
    assert cosines.max() <= 0.98
    assert repeats.provenance["counts"]["dropped_repeats"] == 90 - len(repeats) > 0


def test_save_and_load(tmp_path, memory, task, encoder):
    found = retrieve(memory, task, encoder=encoder, k=20)
    found.save(tmp_path / "found")
    found.save(tmp_path / "found")
    assert [path.name for path in tmp_path.iterdir()] == ["found"]
    loaded = Retrieved.load(tmp_path / "found")
    for name in ("keys", "captions", "images", "classes", "modes", "sources", "licenses", "task", "provenance"):
        assert getattr(loaded, name) == getattr(found, name), name
    assert np.array_equal(loaded.ids, found.ids)
    assert np.array_equal(loaded.scores, found.scores)
    assert torch.equal(loaded.image_embeddings, found.image_embeddings)
    assert torch.equal(loaded.text_embeddings, found.text_embeddings)
    with pytest.raises(MemoryStoreError, match="holds no retrieved pairs"):
        Retrieved.load(tmp_path / "nothing")
    with pytest.raises(MemoryStoreError, match="holds no retrieved pairs"):
        Retrieved.load(tmp_path / "found" / "pairs.parquet")
    description = (tmp_path / "found" / "retrieved.json").read_text()
    (tmp_path / "found" / "retrieved.json").write_text("{}")
    with pytest.raises(MemoryStoreError, match=r"is damaged \(it has no 'task'\): retrieve again"):
        Retrieved.load(tmp_path / "found")
    (tmp_path / "found" / "retrieved.json").write_text(description)
    (tmp_path / "found" / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(MemoryStoreError, match="is damaged"):
        Retrieved.load(tmp_path / "found")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("!")
    with pytest.raises(MemoryStoreError, match="choose another name"):
        found.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_an_empty_result_can_be_saved(tmp_path, memory, task, encoder):
    found = retrieve(memory, task, encoder=encoder, where="key = 'nobody'")
    assert len(found) == 0
    assert found.label.shape == (0,)
    found.save(tmp_path / "none")
    assert len(Retrieved.load(tmp_path / "none")) == 0


def test_wrong_arguments(memory, task, encoder, stub):
    with pytest.raises(TaskError, match="search modes are t2t and t2i, not i2i"):
        retrieve(memory, task, encoder=encoder, search=("t2t", "i2i"))
    with pytest.raises(TaskError, match="not none"):
        retrieve(memory, task, encoder=encoder, search=())
    with pytest.raises(MemoryStoreError, match="was made by model stub"):
        retrieve(memory, task, encoder=stub.StubEncoder(dim=24, seed=3, name="other"))
    with pytest.raises(MemoryStoreError, match="predicate"):
        retrieve(memory, task, encoder=encoder, where="1 = 1; x")


def test_a_memory_without_captions(tmp_path, encoder, task, pairs):
    silent = [pair for pair in pairs if not pair.captions]
    memory = Memory.create(tmp_path / "silent", encoder, silent)
    found = retrieve(memory, task, encoder=encoder, k=5)
    assert set(found.modes) == {("t2i",)}
    assert len(retrieve(memory, task, encoder=encoder, search=["t2t"])) == 0


def test_pairs_as_another_model_sees_them(memory, task, encoder):
    found = retrieve(memory, task, encoder=encoder)

    class Reversed:
        def encode_images(self, images):
            return Bytes(encoder).encode_images(images).flip(1)

    seen = found.seen_by(Reversed())
    torch.testing.assert_close(seen.image_embeddings, found.image_embeddings.flip(1), atol=1e-3, rtol=0)
    assert (seen.keys, seen.captions) == (found.keys, found.captions)
    assert torch.equal(seen.text_embeddings, found.text_embeddings)
    bare = replace(found, images=[None, *found.images[1:]])
    with pytest.raises(MemoryStoreError, match=r"1 of the \d+ retrieved pairs have no stored image"):
        bare.seen_by(encoder)
