"""Image-text retrieval with several captions an image: recall at K in both directions."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.errors import BadImageError, ModelError, SourceError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Result, hash_samples
from retroclip.evaluation.samples import unreadable

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

TASK_NAME = "image-text-retrieval"
KS = (1, 5, 10)
CHUNK = 1024


def retrieval_ranks(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor, *, chunk: int = CHUNK
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many wrong candidates come before (or level with) the right one.

    `images` `(n, d)` and `texts` `(m, d)` are unit-norm, `text_to_image` `(m,)` is the image of each text. Returns the
    rank of each image's best own caption among other images' captions, `(n,)`, and of each text's image, `(m,)`;
    0 is first. Every image must have a text. Similarities are computed `chunk` rows at a time.
    """
    image_ranks, text_ranks = [], []
    for start in range(0, len(images), chunk):
        similarity = images[start : start + chunk] @ texts.T
        own = text_to_image[None, :] == torch.arange(start, start + len(similarity))[:, None]
        best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        image_ranks.append(((similarity >= best) & ~own).sum(1))
    for start in range(0, len(texts), chunk):
        similarity = texts[start : start + chunk] @ images.T
        right = text_to_image[start : start + chunk, None]
        # One less: the right image itself is level with its own score.
        text_ranks.append((similarity >= similarity.gather(1, right)).sum(1) - 1)
    return torch.cat(image_ranks).numpy(), torch.cat(text_ranks).numpy()


def recalls(image_ranks: NDArray[np.int64], text_ranks: NDArray[np.int64], ks: Sequence[int] = KS) -> dict[str, float]:
    """Shares of images and of texts with rank below each K: `i2t-recall@1`, …, `t2i-recall@10`."""
    found = {f"i2t-recall@{k}": float((image_ranks < k).mean()) for k in ks}
    return found | {f"t2i-recall@{k}": float((text_ranks < k).mean()) for k in ks}


def retrieval_metrics(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Recall at each K, in [0, 1]; image → text counts if any caption of the image is in the top K.

    Shapes as in `retrieval_ranks`. ValueError where an image has no text.
    """
    if len(torch.unique(text_to_image)) != len(images):
        raise ValueError("every image needs at least one text")
    return recalls(*retrieval_ranks(images, texts, text_to_image), ks)


@dataclass
class CaptionedImages:
    """Images with one or more captions each; `left_out` counts pairs without an image or a caption."""

    name: str
    split: str | None
    images: list[bytes] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    left_out: int = 0

    def drop(self, bad: dict[int, str]) -> None:
        self.rejected += [f"image {index}: {reason}" for index, reason in bad.items()]
        kept = [index for index in range(len(self.images)) if index not in bad]
        self.images = [self.images[i] for i in kept]
        self.captions = [self.captions[i] for i in kept]


def read_captioned(source: str | Path | Sequence, *, where: str | None = None) -> CaptionedImages:
    """Read the pairs of a source that have an image and a caption; SourceError where there is none."""
    from retroclip.pairs import Rejected, read_pairs

    name, _, split = Path(str(source)).name.partition("#") if isinstance(source, str | Path) else ("pairs", "", "")
    found = CaptionedImages(name=Path(name).stem, split=split or None)
    for pair in read_pairs(source, where=where):
        if isinstance(pair, Rejected):
            found.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        captions = tuple(caption for caption in pair.captions if caption.strip())
        if pair.image is None or not captions:
            found.left_out += 1
            continue
        found.images.append(pair.image)
        found.captions.append(captions)
    if not found.images:
        raise SourceError(f"{source} has no image with a caption: image-text retrieval needs both")
    return found


def evaluate_retrieval(
    encoder: "Encoder",
    source: str | Path | Sequence,
    *,
    where: str | None = None,
    ks: Sequence[int] = KS,
    method: str = "zero-shot",
    resamples: int = RESAMPLES,
    batch_size: int = 64,
    progress: bool = False,
) -> Result:
    """Recall at K of image → text and text → image on captioned images; `value` is image → text at 1.

    Raises SourceError (no captioned image, over 10 % unreadable), ModelError (NaN embeddings).
    """
    start = time.perf_counter()
    data = read_captioned(source, where=where)
    try:
        images = encoder.encode_images(data.images, batch_size=batch_size, progress=progress)
    except BadImageError:
        data.drop(unreadable(data.images, data.name))
        images = encoder.encode_images(data.images, batch_size=batch_size, progress=progress)
    texts = encoder.encode_texts([caption for captions in data.captions for caption in captions])
    if not (torch.isfinite(images).all() and torch.isfinite(texts).all()):
        raise ModelError("the model gave NaN or infinite embeddings: check its weights")
    counts = torch.tensor([len(captions) for captions in data.captions])
    image_ranks, text_ranks = retrieval_ranks(images, texts, torch.repeat_interleave(torch.arange(len(counts)), counts))
    first = image_ranks < 1
    rows = np.arange(len(first))
    outcome = Outcome(rows, np.where(first, rows, -1), first, np.zeros(len(rows)), len(rows))
    seconds = time.perf_counter() - start
    return Result(
        task=TASK_NAME,
        dataset=data.name,
        split=data.split,
        n=len(data.images),
        method=method,
        model=encoder.name,
        metric="i2t-recall@1",
        value=float(first.mean()),
        interval=bootstrap_interval([outcome], "i2t-recall@1", resamples=resamples) if resamples else None,
        metrics=recalls(image_ranks, text_ranks, sorted({1, *ks})),
        seconds=seconds,
        predict_seconds=seconds,
        rejected=data.rejected,
        fingerprint=getattr(encoder, "fingerprint", None),
        precision=getattr(encoder, "precision", None),
        data_hash=hash_samples(data.images, ["\n".join(captions) for captions in data.captions]),
        options={"captions": int(counts.sum()), "left_out": data.left_out},
        outcomes=[outcome],
    )
