"""Whether two pictures look alike, whatever a model makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retroclip.pairs.image import decode_image

ALIKE = 0.8  # correlation of thumbnails, well under that of copies (0.9 and more; docs/decisions.md)
SIDE = 16


def thumbnail(image: bytes | Image.Image) -> NDArray[np.float32]:
    """An image as 16 × 16 × 3 values of zero mean in each colour and unit norm: products are correlations."""
    small = decode_image(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    values = values - values.mean((0, 1))
    return (values / max(float(np.linalg.norm(values)), 1e-6)).ravel()


def mirrored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The thumbnail of the mirrored image."""
    return values.reshape(SIDE, SIDE, 3)[:, ::-1].ravel()
