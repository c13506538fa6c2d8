"""Image-text retrieval with several captions an image: recall at K in both directions."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.errors import BadImageError, ModelError, RetroclipError, SourceError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval
from retroclip.evaluation.leakage import NEAR, has_references, memory_record, near_duplicates, near_references, without
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Result, SampleHash
from retroclip.evaluation.samples import MAX_REJECTED
from retroclip.progress import counted

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.fusion import MemoryEncoder, ReferenceEncoder
    from retroclip.memory import Memory
    from retroclip.tasks import Task

TASK_NAME = "image-text-retrieval"
KS = (1, 5, 10)
AT_ONCE = 2**22  # similarities held at a time: 16 MB, and a few masks of that shape
READ_AT_ONCE = 256
WITH_MEMORY = "mean-neighbours"


def retrieval_ranks(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor, *, chunk: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many wrong candidates come before (or level with) the right one.

    `images` `(n, d)` and `texts` `(m, d)` are unit-norm, `text_to_image` `(m,)` is the image of each text. Returns the
    rank of each image's best own caption among other images' captions, `(n,)`, and of each text's image, `(m,)`;
    0 is first. Every image must have a text. Similarities are computed `chunk` rows at a time, by default so many that
    there are `AT_ONCE` of them.
    """
    image_ranks, text_ranks = [], []
    rows = chunk or max(1, AT_ONCE // len(texts))
    for start in range(0, len(images), rows):
        similarity = images[start : start + rows] @ texts.T
        own = text_to_image[None, :] == torch.arange(start, start + len(similarity))[:, None]
        best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        image_ranks.append(((similarity >= best) & ~own).sum(1))
    rows = chunk or max(1, AT_ONCE // len(images))
    for start in range(0, len(texts), rows):
        similarity = texts[start : start + rows] @ images.T
        right = text_to_image[start : start + rows, None]
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
    """What retrieval is evaluated on: `images` `(n, d)` and the captions of each, under one encoder.

    `pictures` are the encoded images where they were asked for; `left_out` counts pairs without an image or a caption.
    """

    name: str
    split: str | None
    images: torch.Tensor
    captions: list[tuple[str, ...]]
    hash: str
    pictures: list[bytes] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def text_to_image(self) -> torch.Tensor:
        """The image of each caption, `(m,)`."""
        counts = torch.tensor([len(captions) for captions in self.captions])
        return torch.repeat_interleave(torch.arange(len(counts)), counts)


def read_captioned(
    encoder: "Encoder",
    source: str | Path | Sequence,
    *,
    where: str | None = None,
    keep_pictures: bool = False,
    batch_size: int = 64,
) -> CaptionedImages:
    """Embed the images of a source that have a caption as they are read: a few hundred are held at a time.

    Raises SourceError where there is none, or over 10 % can't be read.
    """
    from retroclip.pairs import Rejected, count_pairs, read_pairs

    name, _, split = Path(str(source)).name.partition("#") if isinstance(source, str | Path) else ("pairs", "", "")
    digest = SampleHash()
    data = CaptionedImages(Path(name).stem, split or None, torch.zeros(0, 0), [], "")
    rows: list[torch.Tensor] = []
    unreadable = 0

    def usable() -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
        for pair in read_pairs(source, where=where):
            if isinstance(pair, Rejected):
                data.rejected.append(f"{pair.key}: {pair.reason}")
            elif pair.image is None or not pair.captions:
                data.left_out += 1
            else:
                yield pair.key, pair.image, pair.captions

    waiting = usable()
    countable = isinstance(source, str | Path) and not where  # of chosen ones nobody knows how many there are
    with counted(lambda: count_pairs(source) if countable else None, "images") as done:
        while part := list(islice(waiting, READ_AT_ONCE)):
            embeddings, bad = encode_readable(encoder, [image for _, image, _ in part], batch_size)
            unreadable += len(bad)
            data.rejected += [f"{part[row][0]}: {reason}" for row, reason in bad.items()]
            kept = [own for row, own in enumerate(part) if row not in bad]
            rows.append(embeddings)
            data.captions += [captions for _, _, captions in kept]
            data.pictures += [image for _, image, _ in kept] if keep_pictures else []
            for _, image, captions in kept:
                digest.add(image, "\n".join(captions))
            done(len(part))
    if not data.captions:
        raise SourceError(f"{source} has no image with a caption: image-text retrieval needs both")
    if unreadable > MAX_REJECTED * (unreadable + len(data.captions)):
        total = unreadable + len(data.captions)
        raise SourceError(f"{source}: {unreadable} of {total} images can't be read, such as {data.rejected[-1]}")
    data.images, data.hash = torch.cat(rows), digest.hexdigest()
    return data


def encode_readable(
    encoder: "Encoder", images: Sequence[bytes | Path], batch_size: int = 64
) -> tuple[torch.Tensor, dict[int, str]]:
    """Embeddings of those images that can be decoded, and position and reason of the others."""
    from retroclip.pairs import decode_image

    try:
        return encoder.encode_images(images, batch_size=batch_size), {}
    except BadImageError:
        bad = {}
        for row, image in enumerate(images):
            try:
                decode_image(image)
            except BadImageError as error:
                bad[row] = str(error)
        kept = [image for row, image in enumerate(images) if row not in bad]
        return encoder.encode_images(kept, batch_size=batch_size), bad


def evaluate_retrieval(
    encoder: "Encoder",
    source: str | Path | Sequence,
    *,
    where: str | None = None,
    memory: "Memory | None" = None,
    method: str | None = None,
    ks: Sequence[int] = KS,
    near_threshold: float = NEAR,
    seed: int = 0,
    resamples: int = RESAMPLES,
    batch_size: int = 64,
) -> Result:
    """Recall at K of image → text and text → image on captioned images; `value` is image → text at 1.

    With a memory both sides are refined by it: `method` is one whose model is an encoder (default: the mean of
    neighbours). From that memory, and from a memory or reference set that `encoder` itself consults, near-duplicates of
    the images are hidden. Raises SourceError (no captioned image, over 10 % unreadable), ModelError (NaN embeddings),
    RetroclipError for a method that gives no encoder.
    """
    start = time.perf_counter()
    base: Encoder = getattr(encoder, "base", encoder) if hasattr(encoder, "refine_images") else encoder
    consulted: Memory | None = memory if base is encoder else cast("MemoryEncoder", encoder).memory
    reading: dict[str, Any] = {"where": where, "batch_size": batch_size}
    refers = has_references(encoder)
    data = read_captioned(base, source, keep_pictures=refers or consulted is not None, **reading)
    excluded = np.zeros(0, np.int64)
    if refers:
        referring = cast("ReferenceEncoder", encoder)
        excluded = near_references(referring, data.pictures, threshold=near_threshold)
        if len(excluded):
            encoder = base = cast("Encoder", referring.without(excluded))
            data.images = read_captioned(base, source, **reading).images
    if consulted is not None:
        consulted.check_encoder(base)
        excluded = near_duplicates(consulted, data.images, pictures=data.pictures, threshold=near_threshold)
        consulted = without(consulted, excluded)
        if base is not encoder:
            encoder = cast("Encoder", cast("MemoryEncoder", encoder).with_memory(consulted))
    if memory is not None or method not in (None, "zero-shot"):
        encoder = refining(base, consulted, method or WITH_MEMORY, seed)
    # Whatever was built sits on the base, whose image embeddings are there already, or is another model altogether.
    refine = getattr(encoder, "refine_images", None)
    if encoder is base or (refine is not None and getattr(encoder, "base", None) is base):
        images = data.images if refine is None else refine(data.images)
    else:
        images = read_captioned(encoder, source, **reading).images
    texts = encoder.encode_texts([caption for captions in data.captions for caption in captions])
    if not (torch.isfinite(images).all() and torch.isfinite(texts).all()):
        raise ModelError("the model gave NaN or infinite embeddings: check its weights")
    image_ranks, text_ranks = retrieval_ranks(images, texts, data.text_to_image)
    first = image_ranks < 1
    rows = np.arange(len(first))
    outcome = Outcome(rows, np.where(first, rows, -1), first, np.zeros(len(rows)), len(rows))
    end = time.perf_counter()
    return Result(
        task=TASK_NAME,
        dataset=data.name,
        split=data.split,
        n=len(data.captions),
        method=method or (WITH_MEMORY if memory is not None else "zero-shot"),
        model="",
        metric="i2t-recall@1",
        value=float(first.mean()),
        interval=bootstrap_interval([outcome], "i2t-recall@1", resamples=resamples) if resamples else None,
        metrics=recalls(image_ranks, text_ranks, sorted({1, *ks})),
        rejected=data.rejected,
        data_hash=data.hash,
        options={"captions": len(texts), "left_out": data.left_out},
        outcomes=[outcome],
        seed=seed if memory is not None else None,
        **memory_record(encoder, excluded, near_threshold, memory=consulted),
    ).made_by(encoder, seconds=end - start)


class NoTask:
    """Stands where a method would find its task: asking it for anything is a RetroclipError."""

    def __getattr__(self, name: str) -> Any:
        raise RetroclipError("this method works on the classes of a task, and image-text retrieval has none")


def refining(base: "Encoder", memory: "Memory | None", method: str, seed: int) -> "Encoder":
    """The encoder that a method makes of a base and a memory; RetroclipError if it needs a task for it."""
    from retroclip.methods import MethodContext, get_method

    context = MethodContext(encoder=base, memory=memory, task=cast("Task", NoTask()), seed=seed)
    return cast("Encoder", get_method(method)(context))
