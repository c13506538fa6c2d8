"""Image-text retrieval against sorting, with several captions an image."""

import numpy as np
import pytest
import torch

from retroclip import progress
from retroclip.errors import RetroclipError, SourceError
from retroclip.evaluation import evaluate_retrieval, image_text, retrieval_metrics
from retroclip.evaluation.image_text import retrieval_ranks
from retroclip.pairs import Pair, Rejected


def recalls_by_sorting(images, texts, owner, ks):
    """Recall by sorting whole rows, one query at a time."""
    found = {}
    for k in ks:
        i2t = [any(owner[t] == i for t in np.argsort(-(texts @ images[i]))[:k]) for i in range(len(images))]
        t2i = [owner[t] in np.argsort(-(images @ texts[t]))[:k] for t in range(len(texts))]
        found |= {f"i2t-recall@{k}": np.mean(i2t), f"t2i-recall@{k}": np.mean(t2i)}
    return found


def test_recalls_equal_sorting_and_do_not_depend_on_chunks():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 6, (40,), generator=generator)
    owner = torch.repeat_interleave(torch.arange(40), counts)
    images = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
    texts = images[owner] + 0.5 * torch.randn(len(owner), 6, generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=1)
    shuffled = torch.randperm(len(owner), generator=generator)
    texts, owner = texts[shuffled], owner[shuffled]
    expected = recalls_by_sorting(images.numpy(), texts.numpy(), owner.numpy(), (1, 5, 10))
    assert retrieval_metrics(images, texts, owner) == pytest.approx(expected)
    whole, chunked = retrieval_ranks(images, texts, owner), retrieval_ranks(images, texts, owner, chunk=7)
    assert all((a == b).all() for a, b in zip(whole, chunked, strict=True))


def test_embeddings_that_are_all_alike_find_nothing():
    same = torch.ones(12, 4) / 2
    assert set(retrieval_metrics(same, same, torch.arange(12)).values()) == {0.0}


def test_5000_images_and_25000_texts_are_ranked_in_small_pieces(monkeypatch):
    """No piece holds more than AT_ONCE similarities, of the 125 million that there are."""
    held = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            out = super().__torch_function__(function, types, args, kwargs or {})
            if isinstance(out, torch.Tensor):
                held.append(out.numel())
            return out

    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(5000, 4, generator=generator), dim=1)
    owner = torch.arange(5000).repeat_interleave(5)
    texts = images[owner]
    ranks = retrieval_ranks(images.as_subclass(Watched), texts.as_subclass(Watched), owner)
    assert max(held) <= image_text.AT_ONCE
    assert (ranks[1] == 0).mean() > 0.99


def test_an_image_without_text_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        retrieval_metrics(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 1]))


def test_evaluate_retrieval_reads_pairs_and_leaves_out_the_incomplete(encoder, dataset, monkeypatch):
    pairs = [
        Pair(key=key, image=image, captions=(f"a {label}", f"one more {label}"))
        for key, image, label in zip(dataset.keys, dataset.images, dataset.labels, strict=True)
    ]
    extra = [Pair(key="x", image=dataset.images[0]), Pair(key="y", image=None, captions=("a star",))]
    bad = [Rejected("z", "s", "truncated"), Pair(key="w", image=b"no image", captions=("a star",))]
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter([*pairs, *extra, *bad]))
    result = evaluate_retrieval(encoder, "captions.parquet#val")
    assert (result.task, result.metric, result.dataset, result.split) == (
        "image-text-retrieval", "i2t-recall@1", "captions", "val",
    )  # fmt: skip
    assert result.n == 120
    assert result.options == {"captions": 240, "left_out": 2}
    assert len(result.rejected) == 2
    assert result.value == result.metrics["i2t-recall@1"]
    # Every image shares its caption with the other images of its class, and ties count against it.
    assert result.value == 0
    assert set(result.metrics) == {f"{way}-recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)}


@pytest.mark.parametrize(("where", "total"), [(None, " of 500"), ("label = 'star'", "")])
def test_how_many_a_predicate_chooses_is_not_told(where, total, encoder, captioned, monkeypatch, capsys):
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter(captioned))
    monkeypatch.setattr("retroclip.pairs.count_pairs", lambda source: 500)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with progress.encodings_shown():
        image_text.read_captioned(encoder, "captions.parquet", where=where)
    assert capsys.readouterr().err.startswith(f"encoding: 120{total} images, ")


def test_no_captioned_image_is_refused(encoder, monkeypatch):
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter([Pair(key="a", image=b"x")]))
    with pytest.raises(SourceError, match="no image with a caption"):
        evaluate_retrieval(encoder, "labels.parquet")


@pytest.fixture
def captioned(dataset):
    """The shapes as pairs, each with a caption of its own."""
    rows = enumerate(zip(dataset.keys, dataset.images, dataset.labels, strict=True))
    return [Pair(key=key, image=image, captions=(f"{label} {row}",)) for row, (key, image, label) in rows]


def test_a_memory_refines_both_sides_and_hides_the_evaluated_images(
    encoder, captioned, dataset, make_memory, monkeypatch
):
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter(captioned))
    images, texts = encoder.encode_images(dataset.images), encoder.encode_texts(dataset.labels)
    spoiled = make_memory(torch.cat([images[:30], images.flip(1)]), torch.cat([texts[:30], texts]))
    plain = evaluate_retrieval(encoder, "captions", resamples=0)
    refined = evaluate_retrieval(encoder, "captions", memory=spoiled, resamples=0)
    assert (plain.method, plain.memory) == ("zero-shot", None)
    assert (refined.method, refined.memory_pairs) == ("mean-neighbours", 150)
    assert refined.excluded_near_duplicates >= 30
    # In a memory without those pairs the figures are the same: they were not consulted.
    clean = evaluate_retrieval(encoder, "captions", memory=make_memory(images.flip(1), texts), resamples=0)
    assert clean.excluded_near_duplicates == refined.excluded_near_duplicates - 30
    assert clean.metrics == refined.metrics
    with pytest.raises(RetroclipError, match="works on the classes of a task"):
        evaluate_retrieval(encoder, "captions", memory=spoiled, method="primed")


def test_images_that_are_mostly_unreadable_are_refused(encoder, captioned, monkeypatch):
    broken = [Pair(key=pair.key, image=b"x", captions=pair.captions) for pair in captioned[:20]]
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter([*broken, *captioned[20:]]))
    with pytest.raises(SourceError, match="20 of 120 images can't be read"):
        evaluate_retrieval(encoder, "captions")
