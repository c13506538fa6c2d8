"""Fixtures for every room: the shared real images (skipped where absent) and makers of small images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


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
