"""A random tiny CLIP and a memory of coloured squares whose captions name the colour."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image

from retroclip.encoders import Encoder
from retroclip.memory import Memory
from retroclip.pairs import Pair
from retroclip.retrieval import retrieve
from retroclip.tasks import Task

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PREPROCESS = {
    "size": 32,
    "mode": "RGB",
    "mean": (0.5,) * 3,
    "std": (0.25,) * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def picture(colour: str, seed: int) -> bytes:
    """A noisy square of one colour, as PNG."""
    noise = np.random.default_rng(seed).normal(0, 25, (40, 36, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pairs_of(count: int, seed: int = 0) -> list[Pair]:
    return [
        Pair(f"{seed}-{i}", picture(colour, 1000 * seed + i), (f"a photo of a {colour}.", f"the {colour} square"))
        for i, colour in enumerate(list(COLOURS) * count)
    ]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = CLIP(**CONFIG)
    with torch.no_grad():
        model.token_embedding.weight.normal_(std=0.5)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    options = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS, "precision": "fp32", "device": "cpu"}
    return Encoder("tiny", model, tokenizer, **options)


@pytest.fixture(scope="session")
def task() -> Task:
    return Task("colours", classes=list(COLOURS))


@pytest.fixture(scope="session")
def memory(encoder, tmp_path_factory) -> Memory:
    return Memory.create(tmp_path_factory.mktemp("memory") / "colours", encoder, [pairs_of(8)])


@pytest.fixture
def retrieved(memory, task, encoder):
    return retrieve(memory, task, encoder=encoder, search=("t2t",), k=8)


@pytest.fixture(scope="session")
def held_out():
    """Images and class indices that no memory holds."""
    own = pairs_of(10, seed=7)
    return [pair.image for pair in own], torch.arange(3).repeat(10)


@pytest.fixture(scope="session")
def make_pairs():
    return pairs_of


@pytest.fixture
def in_two_processes(tmp_path) -> Callable[[str, Path], None]:
    """`in_two_processes(script, argument)`: run a script under torchrun; it finds modules in `tmp_path`, too."""

    def run(script: str, argument: Path) -> None:
        file = tmp_path / "run.py"
        file.write_text(script)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        paths = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [*command, str(file), str(argument)], capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    return run
