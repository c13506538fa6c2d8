"""What is saved loads again as the same encoder, and plain open_clip reads it where the architecture is plain."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from retroclip.encoders import add_gates, load, saving
from retroclip.errors import ModelError

from .conftest import CONFIGS, TEXTS, plain_open_clip
from .test_gates import open_gates


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_round_trip(kind, fresh, images, tmp_path):
    encoder = fresh(kind)
    again = load(encoder.save(tmp_path / "saved"), precision="fp32")
    assert again.fingerprint == encoder.fingerprint
    assert again.logit_scale == encoder.logit_scale
    assert torch.equal(again.encode_images(images), encoder.encode_images(images))
    assert torch.equal(again.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_open_clip_reads_what_is_saved(kind, fresh, tmp_path):
    encoder = fresh(kind)
    model, _, tokenizer = plain_open_clip(kind, encoder.save(tmp_path / "saved"))
    with torch.no_grad():
        rows = normalize(model.encode_text(tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(rows, encoder.encode_texts(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "towers"), [("vit", ["image", "text"]), ("timm", ["image"]), ("hf", ["text"])])
def test_gated_round_trip(kind, towers, fresh, model_directory, images, tmp_path):
    base = fresh(kind)
    for tower in towers:
        add_gates(base.model, last=2, tower=tower)
    open_gates(base.model)
    gated = base.with_model(base.model, name="customized")
    again = load(gated.save(tmp_path / "saved"), precision="fp32")
    record = json.loads((tmp_path / "saved" / "retroclip.json").read_text())
    assert record["gates"] == dict.fromkeys(towers, 2)
    assert again.fingerprint == gated.fingerprint != load(model_directory(kind)).fingerprint
    assert torch.equal(again.encode_images(images), gated.encode_images(images))
    assert torch.equal(again.encode_texts(TEXTS), gated.encode_texts(TEXTS))


def test_gates_are_apart_so_that_open_clip_still_reads_the_base(fresh, images, tmp_path):
    encoder = fresh("vit")
    texts = encoder.encode_texts(TEXTS)
    add_gates(encoder.model, last=2)
    encoder.save(tmp_path / "saved")
    assert all(".gated_attn_block." in name for name in load_file(tmp_path / "saved" / "gates.safetensors"))
    model, _, tokenizer = plain_open_clip("vit", tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(normalize(model.encode_text(tokenizer(TEXTS)), dim=-1), texts, atol=1e-5, rtol=0)


def test_published_checkpoint_file_brings_its_gates(fresh, images, tmp_path, architecture):
    encoder = fresh("vit")
    add_gates(encoder.model, last=2)
    open_gates(encoder.model)
    state = {f"module.{name}": value for name, value in encoder.model.state_dict().items()}
    alphas = [name for name in state if ".alpha_" in name]
    torch.save({"epoch": 3, "state_dict": state | {name: state[name].reshape(1) for name in alphas}}, tmp_path / "e.pt")
    again = load(f"{architecture}@{tmp_path / 'e.pt'}", precision="fp32")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert len(alphas) == 4
    assert torch.equal(again.encode_images(pixels), encoder.encode_images(pixels))


def test_16_bit_files_are_half_as_large_and_the_same_model(fresh, images, tmp_path):
    encoder = fresh("resnet")
    encoder.save(tmp_path / "whole")
    encoder.save(tmp_path / "half", dtype="bf16")
    sizes = [(tmp_path / name / "open_clip_model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    again = load(tmp_path / "half", precision="fp32")
    assert again.fingerprint == encoder.fingerprint
    assert (again.encode_images(images) * encoder.encode_images(images)).sum(-1).min() >= 0.999


def test_an_encoder_held_in_bf16_saves_under_the_same_fingerprint(model_directory, tmp_path):
    low = load(model_directory("vit"), precision="bf16")
    assert load(low.save(tmp_path / "saved"), precision="fp32").fingerprint == low.fingerprint


def test_a_failed_save_leaves_nothing_and_keeps_the_older_one(fresh, tmp_path, monkeypatch):
    encoder = fresh("vit")
    encoder.save(tmp_path / "saved")
    before = (tmp_path / "saved" / "retroclip.json").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_write_json", full_disk)
    for name in ("saved", "other"):
        with pytest.raises(OSError, match="No space"):
            encoder.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved" / "retroclip.json").read_bytes() == before


def test_saving_replaces_a_model_but_nothing_else(fresh, tmp_path):
    encoder = fresh("vit")
    encoder.save(tmp_path / "saved")
    fresh("vit-quickgelu").save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "retroclip.json").read_text())["quick_gelu"] is True
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"precious")
    with pytest.raises(ModelError, match="not a model"):
        encoder.save(tmp_path / "photos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "saved"]
