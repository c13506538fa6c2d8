"""Fixtures for every room: the shared real images (skipped where absent) and makers of small images."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]

# Models of the tests are tiny: a second thread only waits. Read when torch is imported; processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Image.Image]:
    """`make_image(seed, size=(width, height))`: an RGB image of smooth noise, the same for the same seed."""

    def make(seed: int = 0, size: tuple[int, int] = (48, 32)) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def make_encoded(make_image: Callable[..., Image.Image]) -> Callable[..., bytes]:
    """`make_encoded(seed, size=…, format="JPEG")`: the bytes of such an image."""

    def make(seed: int = 0, size: tuple[int, int] = (48, 32), format: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        make_image(seed, size).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`tiny_model(seed)`: a directory with a CLIP of random weights (six blocks, 32 px) that tells images apart."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 6, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    made: dict[int, Path] = {}

    def make(seed: int = 0) -> Path:
        if seed not in made:
            torch.manual_seed(seed)
            model = CLIP(**config)
            # At open_clip's initial scales all images of a random model look alike, and so like near-duplicates.
            model.visual.conv1.weight.data *= 5
            for block in model.visual.transformer.resblocks:
                block.attn.out_proj.weight.data *= 5
            made[seed] = tmp_path_factory.mktemp(f"tiny-{seed}")
            described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
            (made[seed] / "open_clip_config.json").write_text(json.dumps(described))
            tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(tensors, made[seed] / "open_clip_model.safetensors")
        return made[seed]

    return make
