"""QuickGELU mismatches are refused wherever they can be known."""

import hashlib
import json
import shutil

import open_clip
import pytest

from retroclip.encoders import activations, load
from retroclip.errors import ModelError


def test_tags_trained_with_the_other_activation():
    with pytest.raises(ModelError, match=r"QuickGELU.*ViT-B-32-quickgelu/openai"):
        load("ViT-B-32/openai")
    with pytest.raises(ModelError, match=r"trained with GELU.*ViT-B-32/laion2b_s34b_b79k|no weights called"):
        load("ViT-B-32-quickgelu/laion2b_s34b_b79k")


def test_every_tag_agrees_with_one_of_its_variants():
    """The refusal is never a dead end: for each refused tag, the architecture it names exists or none does."""
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name)
        try:
            activations.check_tag(name, tag, config)
        except ModelError as error:
            assert f"/{tag}" in str(error) or "no variant" in str(error)


def test_hub_repositories_that_open_clip_knows():
    known = activations._hub_activations()
    quick = next(name for name, is_quick in known.items() if is_quick)
    with pytest.raises(ModelError, match="QuickGELU"):
        activations.check_hub(f"hf-hub:{quick}", {"quick_gelu": False})
    activations.check_hub(f"hf-hub:{quick}", {"quick_gelu": True})
    activations.check_hub("hf-hub:nobody/knows", {"quick_gelu": True})


def test_files_known_by_their_hash(tmp_path, monkeypatch, architecture):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"published weights")
    whole = hashlib.sha256(b"published weights").hexdigest()
    for digest in (whole, whole[:8]):
        monkeypatch.setattr(activations, "_hash_activations", lambda digest=digest: {digest: True})
        with pytest.raises(ModelError, match=f"use {architecture}-quickgelu@"):
            load(f"{architecture}@{file}")
    assert activations.known_activation(file) is True


def test_published_hashes_are_read_from_addresses():
    known = activations._hash_activations()
    assert known["40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"] is True  # OpenAI's ViT-B/32
    assert known["46683a32"] is True  # vit_b_32-quickgelu-laion400m_e32
    assert False in known.values()


def test_our_directories_remember(model_directory, tmp_path):
    directory = load(model_directory("vit-quickgelu")).save(tmp_path / "saved")
    config = json.loads((directory / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="QuickGELU"):
        load(directory)
    shutil.rmtree(directory)
