"""Encoded images to batches of pixels, decoded in threads.

JPEGs are always decoded at full size: the decoder's own reduced sizes (PIL's draft mode) would move embeddings away
from those of plain open_clip.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import MaybeToTensor
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize
from torchvision.transforms.functional import pil_to_tensor

from retroclip.errors import BadImageError
from retroclip.pairs import decode_image

ImageLike = bytes | Path | str | Image.Image


class Preprocessing:
    """A transform split into what is done on each image (PIL) and what is done on a whole batch of pixels.

    Scaling and normalising a batch at once, on the model's thread, saves half of a small model's preprocessing time
    and gives the same floats as the transform itself.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        steps = list(transform.transforms) if isinstance(transform, Compose) else []
        self.splits = len(steps) > 1 and isinstance(steps[-2], MaybeToTensor) and isinstance(steps[-1], Normalize)
        self.transform = transform
        if self.splits:
            self._resize = Compose(steps[:-2])
            self._normalize = steps[-1]

    def one(self, image: Image.Image) -> Tensor:
        """One image's pixels: uint8 (3, H, W) where the transform splits, else the finished tensor."""
        return pil_to_tensor(self._resize(image)) if self.splits else self.transform(image)

    def batch(self, pixels: Sequence[Tensor]) -> Tensor:
        """Finish a batch: (B, 3, H, W) float32, equal to stacking the transform's outputs."""
        stacked = torch.stack(list(pixels))
        return self._normalize(stacked.float().div_(255)) if self.splits else stacked


def image_size(preprocess_cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the pixels that a preprocessing makes."""
    size = preprocess_cfg["size"]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def batches_ahead(device: torch.device) -> int:
    """How many batches to decode while a model works on one there: none where it works on the same cores."""
    return 0 if device.type == "cpu" else 2


def image_batches(
    images: Sequence[ImageLike], transform: Callable[[Image.Image], Tensor], batch_size: int, *, ahead: int = 0
) -> Iterator[Tensor]:
    """Yield (b, 3, H, W) float32 batches of preprocessed images in order, each decoded by threads.

    With `ahead`, so many batches are decoded while the reader works on one (`batches_ahead`).

    Raises BadImageError, with the position in the sequence, at the first image that can't be decoded.
    """
    preprocessing = Preprocessing(transform)

    def prepare(position: int) -> Tensor:
        item: Any = images[position]
        try:
            return preprocessing.one(decode_image(item))
        except BadImageError as error:
            raise BadImageError(f"image {position}: {error}") from error

    starts = iter(range(0, len(images), batch_size))
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    waiting: deque[list[Future[Tensor]]] = deque()

    def submit_next() -> None:
        if (start := next(starts, None)) is not None:
            stop = min(start + batch_size, len(images))
            waiting.append([pool.submit(prepare, position) for position in range(start, stop)])

    try:
        for _ in range(1 + ahead):
            submit_next()
        while waiting:
            yield preprocessing.batch([future.result() for future in waiting.popleft()])
            submit_next()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
