from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from retroclip.classifiers import class_texts, zero_shot
from retroclip.encoders import gate_parameters, load
from retroclip.errors import RetroclipError
from retroclip.training import customize
from retroclip.training.customize import Contrast, Terms, named_classification
from retroclip.training.examples import prepare
from retroclip.training.losses import class_aware_loss
from retroclip.training.pseudo import pseudo_labelled
from retroclip.training.tuning import TUNINGS, Towers

QUICK = {"epochs": 30, "batch_size": 12, "views": 1, "gates": 2, "recipe": "react"}


def top1(encoder, task, held_out) -> float:
    images, labels = held_out
    return float((zero_shot(encoder, task)(encoder.encode_images(images)).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("tuning", list(TUNINGS))
def test_each_tuning_learns_and_trains_its_part_only(encoder, retrieved, task, held_out, tuning):
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    custom = customize(encoder, retrieved, tuning=tuning, lr=2e-2 if "gated" in tuning else 2e-3, **QUICK)
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, before[name]), "the base encoder was changed"
    changed = {
        name.split(".")[0] == "visual" if ".gated_attn_block." not in name else f"gate {name.split('.')[0]}"
        for name, value in custom.model.state_dict().items()
        if name not in before or not torch.equal(value, before[name])
        if name != "logit_scale"
    }
    expected = {
        "gated-image": {"gate visual"},
        "locked-text": {True},
        "locked-image": {False},
        "full": {True, False},
        "gated-text": {"gate transformer"},
        "gated-both": {"gate visual", "gate transformer"},
    }
    assert changed == expected[tuning]
    assert custom.history["loss"][-1] < custom.history["loss"][0]
    assert tuning in custom.name and "colours" in custom.name
    if tuning in ("gated-image", "locked-text", "full"):
        assert top1(custom, task, held_out) > max(0.9, top1(encoder, task, held_out))


def test_trained_parameters_are_the_gates_and_the_logit_scale(encoder, retrieved):
    custom = customize(encoder, retrieved, **QUICK | {"epochs": 1})
    width = 32
    assert custom.trained_parameters == 2 * (12 * width**2 + 13 * width + 2) + 1
    assert custom.trained_parameters == sum(p.numel() for p in gate_parameters(custom.model)) + 1


def test_what_is_cached_gives_the_embeddings_of_the_whole_tower(encoder, retrieved):
    for tuning in TUNINGS:
        towers = Towers(encoder, TUNINGS[tuning], gates=2)
        examples = prepare(towers, retrieved, views=1, seed=0)
        with torch.no_grad():
            plain = towers.image(examples.images[0])
            texts = towers.text(examples.texts)
        torch.testing.assert_close(plain, encoder.encode_images(retrieved.images), atol=2e-3, rtol=0)
        distinct = list(dict.fromkeys(caption for own in retrieved.captions for caption in own))
        torch.testing.assert_close(texts, encoder.encode_texts(distinct), atol=1e-5, rtol=0)
        assert examples.images.shape[:2] == (2, len(retrieved))
        assert not torch.equal(examples.images[0], examples.images[1])


def test_an_epoch_is_shuffled_complete_and_the_same_every_time(encoder, retrieved):
    examples = prepare(Towers(encoder, TUNINGS["gated-image"], gates=2), retrieved, views=1, seed=0)
    epoch = examples.batches(10, seed=3)
    first, again, second = list(epoch(0)), list(epoch(0)), list(epoch(1))
    sizes = [len(batch["labels"]) for batch in first]
    assert sum(sizes) == len(retrieved) and max(sizes) - min(sizes) <= 1 and max(sizes) <= 10
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(torch.cat([b["base"] for b in first]), torch.cat([b["base"] for b in second]))


def test_saved_and_loaded(encoder, retrieved, held_out, tmp_path):
    custom = customize(encoder, retrieved, **QUICK | {"epochs": 2})
    custom.save(tmp_path / "custom")
    again = load(tmp_path / "custom", precision="fp32", device="cpu")
    images = held_out[0]
    torch.testing.assert_close(again.encode_images(images), custom.encode_images(images), atol=1e-5, rtol=0)


def test_a_seed_gives_one_result_and_a_checkpoint_resumes_to_it(encoder, retrieved, tmp_path):
    options = QUICK | {"epochs": 4, "seed": 5}
    whole = customize(encoder, retrieved, **options)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] == 6:
            raise KilledError

    with pytest.raises(KilledError):
        customize(encoder, retrieved, **options, checkpoint=tmp_path / "state", on_log=kill)
    assert json.loads((tmp_path / "state" / "progress.json").read_text())["step"] == 5
    resumed = customize(encoder, retrieved, **options, checkpoint=tmp_path / "state")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, atol=1e-6, rtol=0)


def test_logit_scale_stays_in_its_bounds(encoder, retrieved):
    custom = customize(encoder, retrieved, lr=3.0, **QUICK | {"epochs": 3})
    assert 0.0 <= float(custom.model.logit_scale) <= 4.6052


def shortened(retrieved, rows: list[int]):
    short = copy.copy(retrieved)
    for name in ("captions", "images", "classes", "keys"):
        setattr(short, name, [getattr(retrieved, name)[row] for row in rows])
    for name in ("ids", "scores", "image_embeddings", "text_embeddings"):
        setattr(short, name, getattr(retrieved, name)[rows])
    return short


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [0, 3, 6]], ids=["one pair", "fewer than a batch", "one class"])
def test_few_pairs_and_one_class_train(encoder, retrieved, rows):
    custom = customize(encoder, shortened(retrieved, rows), **QUICK | {"epochs": 2, "batch_size": 256})
    assert all(torch.isfinite(parameter).all() for parameter in custom.model.parameters())


def test_no_pairs_and_no_captions_are_clear_errors(encoder, retrieved):
    with pytest.raises(RetroclipError, match="none of the 0 pairs"):
        customize(encoder, shortened(retrieved, []))
    bare = shortened(retrieved, [0, 1])
    bare.captions = [(), ()]
    with pytest.raises(RetroclipError, match=r"none of the 2 pairs .* has an image and a caption"):
        customize(encoder, bare)


def test_pairs_without_caption_are_left_out(encoder, retrieved):
    retrieved.captions[0] = ()
    examples = prepare(Towers(encoder, TUNINGS["gated-image"], gates=2), retrieved, views=0, seed=0)
    assert len(examples) == len(retrieved) - 1


def test_the_default_loss_is_the_class_aware_one(encoder, retrieved):
    towers = Towers(encoder, TUNINGS["gated-image"], gates=2)
    examples = prepare(towers, retrieved)
    batch = next(examples.batches(24, seed=0)(0))
    u, v = towers.image(batch["images"]), towers.text(batch["texts"])
    expected = class_aware_loss(u, v, batch["labels"], towers.scale())
    torch.testing.assert_close(Contrast(towers, examples.prompts, Terms())(batch)["loss"], expected)


@pytest.mark.parametrize("tuning", ["gated-image", "full"])
def test_every_term_learns_with_wrong_captions_about(encoder, retrieved, task, held_out, tuning):
    retrieved.captions = [own if row % 3 else ("the blue square",) for row, own in enumerate(retrieved.captions)]
    options = QUICK | {"positives": "named", "class_texts": 1.0, "distillation": 0.5, "cleaned": True, "others": 1.0}
    custom = customize(encoder, retrieved, tuning=tuning, lr=2e-2 if "gated" in tuning else 2e-3, **options)
    assert {"contrast", "classes", "kept"} <= set(custom.history.rows[-1])
    assert custom.history["loss"][-1] < custom.history["loss"][0]


def test_our_recipe_stays_nearer_to_the_untuned_model(encoder, retrieved, held_out):
    retrieved.captions = [own if row % 2 else ("grass",) for row, own in enumerate(retrieved.captions)]
    images, _ = held_out
    before = encoder.encode_images(images)
    options = QUICK | {"lr": 2e-3}
    agreement = {
        weight: float(
            (customize(encoder, retrieved, **options, distillation=weight).encode_images(images) * before).mean()
        )
        for weight in (0.0, 20.0)
    }
    assert agreement[20.0] > agreement[0.0]


def test_hidden_tokens_are_drawn_anew_and_only_in_training(encoder, retrieved):
    towers = Towers(encoder, TUNINGS["gated-image"], gates=2, token_drop=0.5)
    examples = prepare(towers, retrieved)
    views = examples.images[0][:4]
    with torch.no_grad():
        assert not torch.equal(towers.image(views), towers.image(views))
        towers.drop.eval()
        torch.testing.assert_close(towers.image(views), encoder.encode_images(retrieved.images[:4]), atol=2e-3, rtol=0)


def test_an_unknown_recipe_names_the_known_ones(encoder, retrieved):
    with pytest.raises(
        RetroclipError, match="no recipe is called 'best': choose one of react, anchored, react-published"
    ):
        customize(encoder, retrieved, recipe="best")


def test_others_are_kept_in_proportion(encoder, retrieved):
    retrieved.captions = [own if row < 4 else ("grass",) for row, own in enumerate(retrieved.captions)]
    towers = Towers(encoder, TUNINGS["gated-image"], gates=2)
    examples = prepare(towers, retrieved, others=1.5)
    assert (examples.named >= 0).sum() == 4 and len(examples) == 10
    assert len(prepare(towers, retrieved)) == len(retrieved)


def test_pairs_of_another_models_memory_are_embedded_anew(encoder, retrieved):
    other = encoder.copy()
    with torch.no_grad():
        other.model.visual.proj.mul_(torch.linspace(0.5, 1.5, 32))
    examples = prepare(Towers(other, TUNINGS["gated-image"], gates=2), retrieved)
    torch.testing.assert_close(examples.base, other.encode_images(retrieved.images))


def test_sigmoid_loss_learns_with_a_bias_of_its_own(encoder, retrieved, task, held_out):
    custom = customize(encoder, retrieved, lr=2e-2, loss="sigmoid", **QUICK)
    width = 32
    assert custom.trained_parameters == 2 * (12 * width**2 + 13 * width + 2) + 2
    assert custom.history["loss"][-1] < custom.history["loss"][0]
    assert top1(custom, task, held_out) > max(0.9, top1(encoder, task, held_out))
    with pytest.raises(RetroclipError, match="choose one of softmax, sigmoid"):
        customize(encoder, retrieved, loss="hinge")


def test_self_training_sees_answers_and_no_captions(encoder, retrieved, task):
    pseudo = pseudo_labelled(encoder, retrieved)
    images = retrieved.image_embeddings
    for row in range(len(retrieved)):
        answer = max(range(3), key=lambda c: float(images[row] @ class_texts(encoder, task)[c]))
        assert pseudo.classes[row] == (answer,)
        assert pseudo.captions[row] == tuple(task.prompts(task.classes[answer]))
    assert retrieved.captions[0] != pseudo.captions[0]
    assert customize(encoder, pseudo, **QUICK | {"epochs": 1}).trained_parameters > 0


def test_an_unknown_tuning_names_the_known_ones(encoder, retrieved):
    with pytest.raises(RetroclipError, match="choose one of gated-image, locked-text"):
        customize(encoder, retrieved, tuning="gated")
    with pytest.raises(RetroclipError, match="choose one of class, named, caption"):
        customize(encoder, retrieved, positives="labels")
    with pytest.raises(RetroclipError, match="choose one of mild, react"):
        customize(encoder, retrieved, views=1, augmentation="strong")
    with pytest.raises(RetroclipError, match="'react' is for augmented views: ask for some"):
        customize(encoder, retrieved, augmentation="react")
    with pytest.raises(RetroclipError, match="'react' is for augmented views: ask for some"):
        customize(encoder, retrieved, recipe="react-published", views=0)
    with pytest.raises(RetroclipError, match="views can't be 'new': give a number, or 'anew'"):
        customize(encoder, retrieved, views="new")


def test_views_of_react_teach_something_else(encoder, retrieved):
    options = QUICK | {"epochs": 1, "views": 1}
    mild, strong = (customize(encoder, retrieved, augmentation=name, **options) for name in ("mild", "react"))
    differ = [not torch.equal(a, b) for a, b in zip(mild.model.parameters(), strong.model.parameters(), strict=True)]
    assert any(differ)


def test_named_classification_weighs_classes_not_pairs():
    generator = torch.Generator().manual_seed(0)
    u, prompts = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (5, 3))
    named, trust, scale = torch.tensor([0, 0, 1, -1, 0]), torch.tensor([1.0, 0.5, 1.0, 0.0, 1.0]), torch.tensor(7.0)
    counts = torch.tensor([6, 2, 0])
    shares = {0: 4 / 6 * 6 / 7, 1: 2 / 3}  # the mean of 6 and 2 is 4; class 2 has no pair and is no candidate
    expected = 0.0
    for row, label in enumerate(named.tolist()):
        if label >= 0:
            loss = -(scale * prompts[:2] @ u[row]).log_softmax(0)[label]
            expected += float(loss * trust[row]) * shares[label]
    found = named_classification(u, prompts, named, trust, scale, counts)
    assert float(found) == pytest.approx(expected / 5, rel=1e-5)
    nobody = named_classification(u, prompts, torch.full((5,), -1), torch.zeros(5), scale, torch.zeros(3).long())
    assert float(nobody) == 0
