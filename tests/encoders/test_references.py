"""Every way to name a model, and one clear line for every way to name none."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from retroclip.encoders import list_models, load, references, register_loader
from retroclip.errors import ModelError

from .conftest import TEXTS


def fails_in_one_line(reference, match):
    with pytest.raises(ModelError, match=match) as caught:
        load(reference)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_directory_by_path_and_by_schema(model_directory):
    directory = model_directory("vit")
    plain, schema = load(directory), load(f"local-dir:{directory}")
    assert plain.fingerprint == schema.fingerprint
    assert plain.name == schema.name == directory.name
    assert plain.loaded_from == schema.loaded_from == str(directory.resolve())


@pytest.mark.parametrize(
    ("given", "name"),
    [("models/pets", "models/pets"), ("models/pets/", "models/pets"), ("{}/models/pets", "pets"), (".", "{0.name}")],
)
def test_a_model_is_called_as_it_was_named_but_without_the_machine(given, name, model_directory, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "pets").symlink_to(model_directory("vit"))
    monkeypatch.chdir(model_directory("vit") if given == "." else tmp_path)
    encoder = load(given.format(tmp_path), precision="fp32")
    assert encoder.name == name.format(model_directory("vit"))
    monkeypatch.chdir(tmp_path / "models")
    assert load(encoder.copy().loaded_from, precision="fp32").fingerprint == encoder.fingerprint


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
def test_checkpoint_file(suffix, model_directory, architecture, tmp_path):
    state = load_file(model_directory("vit") / "open_clip_model.safetensors")
    file = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        file = model_directory("vit") / "open_clip_model.safetensors"
    else:
        torch.save(state, file)
    encoder = load(f"{architecture}@{file}", precision="fp32")
    expected = load(model_directory("vit"), precision="fp32").encode_texts(TEXTS)
    assert torch.equal(encoder.encode_texts(TEXTS), expected)
    assert encoder.name == f"{architecture}@{file.name}"
    assert load(encoder.loaded_from, precision="fp32").fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("name", "near"),
    [("ViT-B-23/laion2b_s34b_b79k", "ViT-B-32"), ("vit-b-32/openai", "ViT-B-32"), ("builtn", "builtin")],
)
def test_unknown_names_get_the_nearest_ones(name, near):
    assert near in fails_in_one_line(name, "did you mean")


def test_architectures_need_weights():
    assert "ViT-B-32/" in fails_in_one_line("ViT-B-32", "without weights")
    assert "laion2b_s34b_b79k" in fails_in_one_line("ViT-B-32/laion2b_s34b", "no weights called")


def test_what_names_nothing(tmp_path):
    fails_in_one_line("", "empty")
    fails_in_one_line("ViT-B-32@nowhere.pt", "no checkpoint file")
    fails_in_one_line(tmp_path, "not a model")
    fails_in_one_line(f"local-dir:{tmp_path / 'nowhere'}", "not a model")
    for text in ("{}", "[]", '{"model_cfg": 3}', '{"model_cfg": {}}'):
        (tmp_path / "open_clip_config.json").write_text(text)
        fails_in_one_line(tmp_path, "not an open_clip configuration")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}')
    fails_in_one_line(tmp_path, "no weight files")
    for text, said in (("[]", "not a JSON object"), ('{"kind": "reference-encoder"}', "no whole model")):
        (tmp_path / "retroclip.json").write_text(text)
        fails_in_one_line(tmp_path, said)


@pytest.mark.parametrize("reference", ["hf-hub:org/name", "ViT-B-32/laion2b_s34b_b79k"])
def test_an_unreachable_hub_is_one_line(reference, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("couldn't connect\nand a page of advice")

    monkeypatch.setattr(references, "download_pretrained", offline)
    monkeypatch.setattr(references, "download_pretrained_from_hf", offline)
    fails_in_one_line(reference, "check the network")


def test_the_hubs_files_are_used_as_they_come(model_directory, monkeypatch):
    directory = model_directory("vit")
    files = {None: "open_clip_model.safetensors", "open_clip_config.json": "open_clip_config.json"}
    monkeypatch.setattr(
        references, "download_pretrained_from_hf", lambda repository, filename=None: str(directory / files[filename])
    )
    resolved = references.resolve("hf-hub:org/name")
    assert resolved.name == resolved.tokenizer == "hf-hub:org/name"
    assert resolved.model_cfg == json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]


def test_builtin_is_a_directory_of_the_package(model_directory, monkeypatch, tmp_path):
    monkeypatch.setattr(references, "builtin_directory", lambda: tmp_path)
    fails_in_one_line("builtin", "not installed")
    monkeypatch.setattr(references, "builtin_directory", lambda: model_directory("hf"))
    encoder = load("builtin", precision="fp32")
    assert encoder.name == "builtin"
    assert torch.equal(encoder.encode_texts(TEXTS), load(model_directory("hf"), precision="fp32").encode_texts(TEXTS))
    assert list_models()[0] == "builtin"


def test_models_are_listed_by_pattern():
    found = list_models("vit-b-32/*")
    assert "ViT-B-32/laion2b_s34b_b79k" in found
    assert all(name.startswith("ViT-B-32/") for name in found)


def test_other_kinds_of_directory_go_to_their_loader(tmp_path):
    (tmp_path / "retroclip.json").write_text('{"format": 1, "kind": "test-kind"}')
    fails_in_one_line(tmp_path, "upgrade")
    register_loader("test-kind", lambda directory, **options: SimpleNamespace(given=(directory, options)))
    made = load(tmp_path, precision="fp32")
    assert made.given == (tmp_path, {"precision": "fp32", "device": None})
    assert (made.name, made.loaded_from) == (tmp_path.name, str(tmp_path))
    (tmp_path / "retroclip.json").write_text('{"format": 99}')
    fails_in_one_line(tmp_path, "later retroclip")


def test_a_bare_state_dict_says_its_activation(model_directory, architecture, tmp_path, caplog):
    torch.save(load_file(model_directory("vit") / "open_clip_model.safetensors"), tmp_path / "bare.pt")
    with caplog.at_level(logging.INFO, logger="retroclip"):
        load(f"{architecture}-quickgelu@{tmp_path / 'bare.pt'}")
    assert "loaded with QuickGELU" in caplog.text
