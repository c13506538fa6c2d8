"""Embeddings of parts of an image, by cutting them out and encoding each cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

CHUNK = 512  # cuts held at once


def cut(image: Image.Image, box: Sequence[float], context: float = 1.0) -> Image.Image:
    """The part of an image in a box (x, y, w, h, in pixels), grown about its middle by the factor `context`.

    Edges go outwards to whole pixels and stay inside the image; a cut is at least one pixel wide and high.
    """
    x, y, w, h = box
    dx, dy = (context - 1) * w / 2, (context - 1) * h / 2
    left, top = max(0, int(x - dx)), max(0, int(y - dy))
    right = min(image.width, max(left + 1, int(-(-(x + w + dx) // 1))))
    bottom = min(image.height, max(top + 1, int(-(-(y + h + dy) // 1))))
    return image.crop((min(left, image.width - 1), min(top, image.height - 1), right, bottom))


def encode_cuts(
    encoder: Encoder, parts: Iterable[tuple[Any, Sequence[Sequence[float]]]], *, context: float = 1.0, **options: Any
) -> Tensor:
    """Embeddings (n, d), unit norm, of every box of every (image, boxes), in order; images are decoded once.

    Images may be encoded bytes, paths or PIL images. `options` are those of `encode_images`.
    """
    rows, waiting = list[Tensor](), list[Image.Image]()
    for piece in _cuts(parts, context):
        waiting.append(piece)
        if len(waiting) == CHUNK:
            rows.append(encoder.encode_images(waiting, **options))
            waiting = []
    if waiting or not rows:
        rows.append(encoder.encode_images(waiting, **options))
    return torch.cat(rows)


def _cuts(parts: Iterable[tuple[Any, Sequence[Sequence[float]]]], context: float) -> Iterator[Image.Image]:
    from retroclip.pairs import decode_image

    for image, boxes in parts:
        decoded = decode_image(image) if len(boxes) else None
        for box in boxes:
            assert decoded is not None
            yield cut(decoded, box, context)
