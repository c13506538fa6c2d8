"""Merged gates give the gated model's embeddings, in a model that plain open_clip loads."""

import json

import open_clip
import pytest
import torch

from retroclip.encoders import load
from retroclip.encoders.gates import add_gates, count_gates, gated_blocks
from retroclip.encoders.merging import merge_gates
from retroclip.errors import ModelError


def opened(directory, *towers):
    """The tiny model with gates that are open."""
    encoder = load(directory, precision="fp32")
    for tower in towers:
        add_gates(encoder.model, last=2, tower=tower)
    generator = torch.Generator().manual_seed(0)
    for gate in gated_blocks(encoder.model):
        for parameter in gate.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return encoder.with_model(encoder.model)


@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_the_merged_model_is_plain_and_gives_the_same_embeddings(tiny_model, make_image, tmp_path, towers):
    gated = opened(tiny_model(0), *towers)
    merged = merge_gates(gated)
    images, texts = [make_image(seed) for seed in range(6)], ["a cat", "two dogs on a hill"]
    assert count_gates(merged.model) == {} and merge_gates(merged) is merged
    torch.testing.assert_close(merged.encode_images(images), gated.encode_images(images), atol=2e-6, rtol=0)
    torch.testing.assert_close(merged.encode_texts(texts), gated.encode_texts(texts), atol=2e-6, rtol=0)
    merged.save(tmp_path / "merged")
    assert not (tmp_path / "merged" / "gates.safetensors").exists()
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'merged'}").eval()
    pixels = torch.stack([gated.preprocess(image) for image in images])
    with torch.no_grad():
        found = torch.nn.functional.normalize(plain.encode_image(pixels), dim=-1)
    torch.testing.assert_close(found, gated.encode_images(images), atol=2e-6, rtol=0)
    layers = json.loads((tmp_path / "merged" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"][
        "layers"
    ]
    assert layers == (8 if "image" in towers else 6)


def test_a_tower_whose_depth_is_its_name_is_refused(fresh):
    encoder = fresh("timm")
    assert merge_gates(encoder) is encoder
    add_gates(encoder.model, last=1)
    with pytest.raises(ModelError, match="can't be merged exactly: export it as ONNX"):
        merge_gates(encoder)


def test_a_tower_that_open_clip_cannot_build_is_refused_gated_or_not():
    with pytest.raises(ModelError, match="builtin: open_clip alone can't build its image tower: export it as ONNX"):
        merge_gates(load("builtin", precision="fp32"))
