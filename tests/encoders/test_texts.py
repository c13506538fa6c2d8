"""Texts are run no further than they reach, only where that is exact, and come back in their own order."""

import pytest
import torch
from torch.nn.functional import normalize

from retroclip.encoders.texts import encode_tokens, text_lengths

from .conftest import CONFIGS, TEXTS

TRIMMED = ["vit", "vit-quickgelu", "resnet", "timm", "hf"]


def whole(encoder, texts):
    with torch.no_grad():
        return normalize(encoder.model.encode_text(encoder.tokenizer(texts)), dim=-1)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_any_batching_gives_the_whole_contexts_embeddings(kind, fresh):
    encoder = fresh(kind)
    texts = [*TEXTS, "", "dog " * 100, *reversed(TEXTS), "日本語 and naïve café"]
    for batch_size in (1, 3, 100):
        rows = encoder.encode_texts(texts, batch_size=batch_size)
        torch.testing.assert_close(rows, whole(encoder, texts), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", TRIMMED)
def test_what_follows_a_text_isnt_computed(kind, fresh):
    encoder = fresh(kind)
    tokens = encoder.tokenizer(TEXTS)
    lengths = text_lengths(encoder.model, tokens)
    assert lengths.max() < tokens.shape[1]
    widths = []
    blocks = encoder.model.text.transformer.encoder.layer if kind == "hf" else text_stack(encoder.model)
    blocks[0].register_forward_pre_hook(lambda module, args, kwargs: widths.append(args[0].shape[1]), with_kwargs=True)
    encoder.encode_texts(TEXTS, batch_size=2)
    assert widths == [int(part.max()) for part in lengths.sort().values.split(2)]


def text_stack(model):
    return (model.text if hasattr(model, "text") else model).transformer.resblocks


def test_lengths_end_at_the_end_of_text(fresh):
    encoder = fresh("vit")
    tokens = encoder.tokenizer(["a dog", "dog " * 100])
    assert text_lengths(encoder.model, tokens).tolist() == [4, tokens.shape[1]]
    hf = fresh("hf")
    assert text_lengths(hf.model, hf.tokenizer(["a dog", "", "dog " * 100])).tolist() == [4, 2, 20]


def test_a_tower_that_sees_its_padding_is_never_trimmed(fresh):
    encoder = fresh("siglip")
    tokens = encoder.tokenizer(TEXTS)
    assert (text_lengths(encoder.model, tokens) == tokens.shape[1]).all()


def test_dropping_a_token_too_many_would_show(fresh):
    """The lengths are the least that is exact: one column less changes the embedding."""
    encoder = fresh("vit")
    tokens = encoder.tokenizer(["a very small dog"])
    length = int(text_lengths(encoder.model, tokens)[0])
    with torch.no_grad():
        exact, short = (encode_tokens(encoder.model, tokens[:, :n]) for n in (length, length - 1))
    assert (normalize(exact) * normalize(short)).sum() < 0.99


def test_no_texts_and_one_text(fresh):
    encoder = fresh("vit")
    assert encoder.encode_texts([]).shape == (0, 32)
    with pytest.raises(TypeError, match=r"\[text\]"):
        encoder.encode_texts("a dog")
