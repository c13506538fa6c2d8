"""A tiny deterministic encoder and synthetic photos for tests of memory and retrieval; loaded by path from conftest."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}


class StubEncoder:
    """Images by their coarse colours, texts by their words, both projected at random to (d,).

    A text that names a colour lies near images of that colour.
    """

    def __init__(self, dim: int = 16, seed: int = 0, name: str = "stub") -> None:
        self.dim, self.name = dim, name
        self.fingerprint = hashlib.sha256(f"{dim} {seed}".encode()).hexdigest()
        generator = torch.Generator().manual_seed(seed)
        self.projection = torch.randn(48, dim, generator=generator)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.resize((4, 4))).copy()).permute(2, 0, 1).float() / 255

    def encode_images(
        self, images: torch.Tensor | Sequence[bytes], *, batch_size: int = 64, progress: bool = False
    ) -> torch.Tensor:
        if not isinstance(images, torch.Tensor):
            images = torch.stack([self.preprocess(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
        return torch.nn.functional.normalize(images.flatten(1) @ self.projection - 1e-3, dim=1)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> torch.Tensor:
        if not texts:
            return torch.zeros(0, self.dim)
        return torch.nn.functional.normalize(torch.stack([self._text(text) for text in texts]), dim=1)

    def _text(self, text: str) -> torch.Tensor:
        total = torch.zeros(self.dim)
        for word in text.lower().replace(".", " ").split():
            if word in COLOURS:
                colour = torch.tensor(COLOURS[word]).float().div(255)
                total += colour.repeat_interleave(16) @ self.projection
            else:
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                total += 0.3 * torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))
        return total if total.norm() else total + 1


def photo(seed: int, colour: str | None = None, kind: str = "PNG") -> bytes:
    """An 8 x 8 picture of noise, around one of COLOURS if given."""
    noise = np.random.default_rng(seed).integers(0, 60, (8, 8, 3))
    base = np.array(COLOURS[colour]) - 30 if colour else np.random.default_rng(seed + 10**6).integers(0, 195, 3)
    buffer = io.BytesIO()
    Image.fromarray((noise + base).clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()
