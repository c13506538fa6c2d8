"""Feature maps of the builtin's frozen convolutional part, computed once a view and kept on disk for training."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from retroclip.encoders.hybrid import IMAGE_SIZE
from retroclip.files import whole_file
from retroclip.pairs import Pair, decode_image, read_pairs

Box = tuple[float, float, float, float]


def centre_box(width: int, height: int) -> Box:
    """The central square: what resizing the shorter side and cropping the centre leaves."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A box of a random share of the area, aspect ratio in [3/4, 4/3]: torchvision's RandomResizedCrop."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return centre_box(width, height)


def coarse(image: Image.Image, rng: np.random.Generator, *, sides: tuple[int, int] = (24, 80)) -> Image.Image:
    """The image at a size at which little is left of it: shorter side drawn from `sides`, evenly in its logarithm."""
    factor = np.exp(rng.uniform(*np.log(sides))) / min(image.size)
    size = [max(1, round(float(factor * side))) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC) if factor < 1 else image


def render(image: Image.Image, scale: tuple[float, float] | None, rng: np.random.Generator) -> np.ndarray:
    """One view, uint8 (3, S, S): the plain one without `scale`, else crop, flip and a jitter of ±20 %."""
    box = centre_box(*image.size) if scale is None else random_box(*image.size, scale, rng)
    view = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    if scale is not None:
        if rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = enhance(view).enhance(rng.uniform(0.8, 1.2))
    return np.asarray(view).transpose(2, 0, 1)


class FeatureCache:
    """Views of one source: for each, `maps` (n, 352, 5, 5) and the teacher's `logits` (n, 1000), float16, on disk.

    `views` are the plain one and crops; after them, `coarse` asks for one more, of the image at few pixels, with the
    teacher's opinion of the whole image: what a small picture shows is learnt from what the large one was.
    A view appears under its final name when it is whole, so that a killed run loses one view at most. File names hold
    a digest of source, scale and limit: maps made with other ones are never taken for these.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        source: str,
        views: int,
        scale: tuple[float, float],
        limit: int | None,
        *,
        coarse: bool = False,
    ):
        self.folder, self.name, self.source = folder, name, source
        self.views, self.scale, self.limit, self.coarse = views, scale, limit, coarse
        made_of = json.dumps([source, scale, limit])
        self._stem = f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"

    def build(self, stem: nn.Module, head: nn.Module, on_progress: Callable[[str], None]) -> None:
        """`stem`: images → maps; `head`: maps → logits. Both frozen, any dtype."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for view in self._all_views():
            if not all(self._file(view, part).exists() for part in self._parts(view)):
                self._build_view(view, stem, head)
            on_progress(f"{self.name}: view {view}")

    def _pairs(self) -> Iterator[Pair]:
        pairs = (pair for pair in read_pairs(self.source) if isinstance(pair, Pair) and pair.image is not None)
        return islice(pairs, self.limit)

    def _all_views(self) -> list[int | str]:
        return [*range(self.views), *(["coarse"] if self.coarse else [])]

    def _parts(self, view: int | str) -> tuple[str, ...]:
        return ("maps",) if view == "coarse" else ("maps", "logits")

    def _build_view(self, view: int | str, stem: nn.Module, head: nn.Module) -> None:
        maps: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        meta: list[dict[str, Any]] = []
        dtype = next(stem.parameters()).dtype
        scale = None if view in (0, "coarse") else self.scale

        def draw(pair: Pair) -> np.ndarray:
            assert pair.image is not None
            rng = np.random.default_rng(zlib.crc32(f"{self.name}/{view}/{pair.key}".encode()))
            image = decode_image(pair.image)
            return render(coarse(image, rng) if view == "coarse" else image, scale, rng)

        with ThreadPoolExecutor(2) as pool, torch.inference_mode():
            pairs = self._pairs()
            while chunk := list(islice(pairs, 128)):
                pixels = torch.from_numpy(np.stack(list(pool.map(draw, chunk))))
                images = ((pixels.float() / 255 - 0.5) / 0.5).to(dtype).contiguous(memory_format=torch.channels_last)
                tapped = stem(images)
                maps.append(tapped.half().contiguous().numpy())
                if "logits" in self._parts(view):
                    logits.append(head(tapped).half().numpy())
                meta += [{"key": p.key, "captions": p.captions, "label": p.label} for p in chunk]
        if view == 0:
            (self.folder / f"{self._stem}.json").write_text(json.dumps(meta))
        for part, arrays in zip(self._parts(view), (maps, logits), strict=False):
            with whole_file(self._file(view, part)) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, np.concatenate(arrays))

    def _file(self, view: int | str, part: str) -> Path:
        return self.folder / f"{self._stem}-{view}-{part}.npy"

    def open(self) -> None:
        """Map the views into memory; rows are read from the page cache as they are asked for."""
        self.rows = json.loads((self.folder / f"{self._stem}.json").read_text())
        self.maps = [np.load(self._file(view, "maps"), mmap_mode="r") for view in self._all_views()]
        self.logits = [np.load(self._file(view, "logits"), mmap_mode="r") for view in range(self.views)]
        if self.coarse:
            self.logits.append(self.logits[0])

    def __len__(self) -> int:
        return len(self.rows)

    def drawn_views(self, rng: np.random.Generator, size: int, coarse_share: float) -> np.ndarray:
        """A view for each of `size` rows: a plain or cropped one, or in that share of cases the coarse one."""
        views = rng.integers(self.views, size=size)
        return np.where(rng.random(size) < coarse_share, self.views, views) if self.coarse else views

    def take(self, rows: np.ndarray, views: np.ndarray) -> tuple[Tensor, Tensor]:
        """Maps (m, 352, 5, 5) and logits (m, 1000), float32, of the given rows, each under the given view."""
        maps = np.stack([self.maps[v][r] for r, v in zip(rows, views, strict=True)])
        logits = np.stack([self.logits[v][r] for r, v in zip(rows, views, strict=True)])
        return torch.from_numpy(maps).float(), torch.from_numpy(logits).float()
