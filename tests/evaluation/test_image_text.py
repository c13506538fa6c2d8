"""Image-text retrieval against sorting, with several captions an image."""

import numpy as np
import pytest
import torch

from retroclip.errors import SourceError
from retroclip.evaluation import evaluate_retrieval, retrieval_metrics
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


def test_no_captioned_image_is_refused(encoder, monkeypatch):
    monkeypatch.setattr("retroclip.pairs.read_pairs", lambda source, where=None: iter([Pair(key="a", image=b"x")]))
    with pytest.raises(SourceError, match="no image with a caption"):
        evaluate_retrieval(encoder, "labels.parquet")
