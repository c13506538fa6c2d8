"""RA-CLIP's pre-training in small: what is trained, looked up once, and written on the page."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from retroclip.encoders import load
from retroclip.evaluation.outcome import Outcome


@pytest.fixture(scope="module")
def ra_clip(memories):
    return importlib.import_module("ra_clip")


def test_plain_clip_differs_by_the_reference_set_alone(ra_clip, tmp_path):
    recipes = {name: ra_clip.recipe_of(name, Path("data"), tmp_path) for name in ra_clip.VARIANTS}
    ours, plain, long = (recipe.model_dump() for recipe in recipes.values())
    assert {name for name in plain if plain[name] != ours[name]} == {"kind", "work", "out"}
    assert set(ours) - set(plain) == {"retriever", "reference", "k", "blocks", "heads", "length"}
    assert {name for name in ours if long[name] != ours[name]} == {"work", "out", "length"}
    assert len({recipe.work for recipe in recipes.values()}) == 3


def test_the_retriever_sees_an_image_once_for_all_models(ra_clip, tiny_model, make_encoded, tmp_path, monkeypatch):
    retriever, images = load(str(tiny_model(0)), precision="fp32"), [make_encoded(seed) for seed in range(3)]
    expected, pixels = retriever.encode_images(images), torch.randn(2, 3, 32, 32)
    seen = retriever.encode_images(pixels)
    first = ra_clip.Kept(retriever, tmp_path)
    assert torch.equal(first.encode_images(images), expected) and torch.equal(first.encode_images(pixels), seen)
    monkeypatch.setattr(retriever, "encode_images", lambda *args, **given: pytest.fail("embedded again"))
    again = ra_clip.Kept(retriever, tmp_path)
    assert torch.equal(again.encode_images(images), expected) and torch.equal(again.encode_images(pixels), seen)
    assert again.preprocess_cfg == retriever.preprocess_cfg


def test_figures_have_their_gain_over_plain_clip_and_the_page_its_verdict(ra_clip, tmp_path, monkeypatch):
    page = importlib.import_module("page_ra_clip")
    logits = torch.eye(2).repeat(60, 1).numpy()
    labels = logits.argmax(1)
    right = Outcome.from_logits(logits, labels, keep_scores=False)
    wrong = Outcome.from_logits(logits, labels[::-1].copy(), keep_scores=False)
    wrong = Outcome(right.labels, wrong.labels, right.labels == wrong.labels, right.confidence, 2)
    note = {"n": 120, "baselines": {"top1": 0.25}}
    ours, plain = ra_clip.figure(right, note, wrong), ra_clip.figure(wrong, note, None)
    assert (ours["value"], ours["gain"], plain["value"]) == (100, 100, 0) and "gain" not in plain
    name = "cifar10 at 0"
    stored = {"ra-clip": {name: ours, "cifar10 at 0.5": ours | {"gain": -3.0, "gain_interval": [-5, -1]}}}
    (tmp_path / "ra-clip.json").write_text(json.dumps({"variants": stored | {"plain": {name: plain}}}))
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.ra_clip().splitlines()[2] == (
        "| zero-shot, CIFAR-10 (120) | 0.0 (0.0–0.0) | 100.0 (100.0–100.0) | +100.0 (+100.0 to +100.0) | – | – |"
    )
    findings = page.ra_clip_findings().splitlines()[2:]
    assert [line.split(" | ")[-1] for line in findings] == ["agrees |", "disagrees |"]
    assert page.ra_clip_random().startswith("Not measured")
