import math

import pytest
import torch
import torch.nn.functional as F

from retroclip.training.losses import clip_loss, unified_loss
from retroclip.training.pretrain import read_recipe
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.objective import PretrainObjective
from retroclip.training.pretraining.train import class_texts, fresh_encoder, make_batches


@pytest.fixture
def made(tiny_recipe, tmp_path):
    def make(bf16=False, **fields):
        recipe = read_recipe(tiny_recipe(tmp_path, **fields))
        corpora = [Corpus(s, recipe.data, recipe.work / "images", recipe.cache_size) for s in recipe.sources]
        corpora = [corpus.build(lambda line: None) for corpus in corpora]
        encoder, texts = fresh_encoder(recipe), class_texts(recipe, corpora)
        batches = make_batches(recipe, corpora, texts, encoder)
        return PretrainObjective(encoder.model, recipe, len(texts.names), bf16=bf16), batches.at(0), encoder.model

    return make


def embedded(model, batch):
    with torch.no_grad():
        images = F.normalize(model.encode_image(batch["pixels"]), dim=-1)
        texts = []
        for name in ("captions", "names"):
            tokens = F.pad(batch[name], (0, 16 - batch[name].shape[1]))
            texts.append(F.normalize(model.encode_text(tokens), dim=-1))
    return images, *texts


def test_captions_alone_are_the_clip_loss(made):
    objective, batch, model = made(sources=[{"name": "captioned", "file": "captioned.parquet", "share": 6}])
    images, captions, _ = embedded(model, batch | {"names": batch["captions"]})
    expected = clip_loss(images, captions, 1 / 0.07)
    torch.testing.assert_close(objective(batch)["loss"], expected, rtol=1e-4, atol=1e-5)


def test_both_kinds_are_the_unified_loss(made):
    objective, batch, model = made(symmetric=False)
    images, captions, names = embedded(model, batch)
    expected = unified_loss(images, batch["labels"], names, captions, 1 / 0.07)
    torch.testing.assert_close(objective(batch)["loss"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_split_heads_share_the_tower_only(made, classifier):
    objective, batch, model = made(classifier=classifier, symmetric=False)
    images, captions, _ = embedded(model, batch)
    raw, head = model.encode_image(batch["pixels"])[4:], objective.head
    cosines = F.normalize(raw, dim=-1) @ F.normalize(head, dim=-1).T
    logits = raw @ head.T if classifier == "linear" else cosines / 0.07
    classified = -logits.log_softmax(1)[range(3), batch["classes"][4:]].mean()
    aligned = F.cross_entropy(images[:4] @ captions.T / 0.07, torch.arange(4))
    torch.testing.assert_close(objective(batch)["loss"], (3 * classified + 4 * aligned) / 7, rtol=1e-4, atol=1e-5)


def test_split_heads_tell_an_image_from_its_own_sources_classes(made):
    """As the text encoder's classes are: the comparison is about the classifier alone."""
    sources = [
        {"name": "one", "file": "labelled.parquet", "share": 2, "text": "labels", "limit": 2},
        {"name": "all", "file": "labelled.parquet", "share": 3, "text": "labels"},
    ]
    objective, batch, model = made(classifier="cosine", symmetric=False, sources=sources)
    raw = F.normalize(model.encode_image(batch["pixels"]), dim=-1)
    logits = raw @ F.normalize(objective.head, dim=-1).T / 0.07
    few = sorted(set(batch["classes"][:2].tolist()))
    losses = [-logits[row, few].log_softmax(0)[few.index(int(batch["classes"][row]))] for row in range(2)]
    losses += [-logits[row].log_softmax(0)[batch["classes"][row]] for row in range(2, 5)]
    assert len(few) < len(objective.head) == 3
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_ancestors_add_a_term(made):
    objective, batch, _ = made(ancestors=0.5, symmetric=False)
    values = objective(batch)
    torch.testing.assert_close(values["loss"], values["contrast"] + 0.5 * values["ancestors"])


def test_mixed_precision_is_that_of_the_forward_pass(made):
    objective, batch, model = made(bf16=True)
    seen = set()
    model.visual.conv1.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    loss = objective(batch)["loss"]
    loss.backward()
    assert seen == {torch.bfloat16} and loss.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_the_temperature_is_learnt_and_stays_in_its_range(made):
    objective, batch, model = made()
    assert math.isclose(float(model.logit_scale.detach().exp()), 1 / 0.07, rel_tol=1e-5)
    objective(batch)["loss"].backward()
    assert float(model.logit_scale.grad) != 0
    for value, expected in ((9.0, math.log(100)), (-9.0, -math.log(100))):
        model.logit_scale.data.fill_(value)
        objective.clamp()
        assert math.isclose(float(model.logit_scale.detach()), expected, rel_tol=1e-6)


def test_chunks_give_the_gradients_of_the_whole_batch(made):
    found = []
    for size in (None, 2):
        objective, batch, model = made(micro_batch=size, ancestors=0.5)
        values = objective(batch)
        values["loss"].backward()
        found.append([values["loss"].detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=5e-6)  # float32: logits are cosines times 14
