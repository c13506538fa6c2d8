"""The published architectures at full size, random weights through a file, 512 real images and their captions. Slow."""

import json
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.factory import get_model_config
from safetensors.torch import save_file
from torch.nn.functional import normalize

from retroclip.encoders import FIDELITY_BOUND, fidelity, load
from retroclip.pairs import decode_image

from .conftest import write_tokenizer

COUNT = 512
ARCHITECTURES = ["ViT-B-32", "ViT-B-32-quickgelu", "RN50", "ViT-B-16-SigLIP", "convnext_base"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(shared_data):
    table = pq.read_table(shared_data / "flickr8k.parquet", filters=[("split", "=", "val")]).slice(0, COUNT)
    return table["image"].to_pylist(), table["caption"].to_pylist()


def write(name: str, directory: Path) -> Path:
    """A model of random weights; SigLIP's own tokenizer is on the hub, so a small one stands in for it."""
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    config = {"model_cfg": get_model_config(name), "preprocess_cfg": model.visual.preprocess_cfg}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    if "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]:
        write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_full_size(name, photos, tmp_path):
    images, texts = photos
    directory = write(name, tmp_path)
    exact = load(directory, precision="fp32")
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    with torch.no_grad():
        pixels = torch.stack([transform(decode_image(data)) for data in images[:16]])
        rows = normalize(plain.eval().encode_image(pixels), dim=-1), normalize(plain.encode_text(tokenizer(texts[:16])))
    torch.testing.assert_close(exact.encode_images(images[:16]), rows[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(exact.encode_texts(texts[:16]), rows[1], atol=1e-5, rtol=0)
    smallest = fidelity(load(directory, precision="bf16"), exact, images, texts)
    print(f"{name}: minimum cosine of bf16 to fp32 over {len(images)} images and their captions {smallest:.6f}")
    assert len(images) == COUNT
    assert smallest >= FIDELITY_BOUND
