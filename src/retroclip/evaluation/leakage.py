"""Near-duplicates of evaluation images in a memory or reference set: found, counted, and kept out of sight."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.evaluation.result import REFERENCES
from retroclip.pairs import ALIKE, mirrored, thumbnail

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.evaluation.samples import Samples
    from retroclip.fusion import MemoryEncoder, ReferenceEncoder
    from retroclip.memory import Memory
    from retroclip.methods import MethodContext

NEAR = 0.95  # REACT, §"Retrieval" of methods.md: a cosine above this is the same picture
SCORES = 2**24  # compared at a time: 64 MB


def near_duplicates(
    memory: "Memory", images: torch.Tensor, *, pictures: Sequence[bytes] | None = None, threshold: float = NEAR
) -> NDArray[np.int64]:
    """Ids of the memory's pairs whose image nearly is one of an evaluation set's, ascending.

    `images` (n, d) are the set's embeddings, `pictures` the encoded images. A candidate has a cosine > `threshold` with
    one of them. Small models put different photos of one kind that near, too, so where there are pictures to look at, a
    candidate must also look like it: thumbnails that correlate by `ALIKE`, mirrored or not (docs/decisions.md). All
    rows are compared, whatever index the memory has: an approximate one would leave some evaluated images in.
    """
    from retroclip.memory.search import as_queries

    found: dict[int, set[int]] = {}
    queries, ids = as_queries(images, images.shape[1]), memory.ids()
    step = max(1, SCORES // max(1, len(queries)))
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        near = memory.embeddings(part) @ queries.T > threshold
        for row, query in near.nonzero().tolist():
            found.setdefault(int(part[row]), set()).add(query)
    if pictures is not None:
        found = _alike(memory, found, pictures)
    return np.array(sorted(found), dtype=np.int64)


def _alike(memory: "Memory", found: dict[int, set[int]], pictures: Sequence[bytes]) -> dict[int, set[int]]:
    """The candidates that look like one of their queries; those without a stored image all stay."""
    queries = {row: thumbnail(pictures[row]) for row in set().union(*found.values())}
    flipped = {row: mirrored(values) for row, values in queries.items()}
    ids = list(found)
    alike = {}
    for start in range(0, len(ids), 1024):
        part = ids[start : start + 1024]
        for own, image in zip(part, memory.take(part, columns=["image"])["image"].to_pylist(), strict=True):
            shown = None if image is None else thumbnail(image)
            if shown is None or any(max(shown @ queries[q], shown @ flipped[q]) > ALIKE for q in found[own]):
                alike[own] = found[own]
    return alike


def near_samples(
    train: "Samples", evaluated: Sequence["Samples"], encoder: "Encoder", *, threshold: float = NEAR
) -> list[int]:
    """Rows of training samples that nearly are an evaluated image, ascending, by the two tests of `near_duplicates`.

    Thumbnails come first, for they are the cheaper test: of `train` only what is alike is embedded.
    """
    beneath = cast("MemoryEncoder", encoder).base if hasattr(encoder, "refine_images") else encoder
    # Before their pictures are looked at, for this leaves out the unreadable ones.
    theirs = torch.cat([samples.embed_base(beneath) for samples in evaluated])
    pictures = [image for samples in evaluated for image in samples.images]
    alike = []
    for start in range(0, len(train.images), 1024):
        own_thumbnails = np.stack([thumbnail(image) for image in train.images[start : start + 1024]])
        alike += [(start + row, other) for row, other in _alike_pairs(own_thumbnails, pictures)]
    rows = sorted({row for row, _ in alike})
    if not rows:
        return []
    own = beneath.encode_images([train.images[row] for row in rows])
    place = {row: position for position, row in enumerate(rows)}
    return sorted({row for row, other in alike if float(own[place[row]] @ theirs[other]) > threshold})


def near_references(
    encoder: "ReferenceEncoder", pictures: Sequence[bytes], *, threshold: float = NEAR
) -> NDArray[np.int64]:
    """Rows of a reference set whose image nearly is one of the encoded `pictures`, ascending.

    The two tests are those of `near_duplicates`, cosines the retriever's; a reference set without thumbnails passes by
    the cosine alone.
    """
    own = encoder.augmentation.reference[0]
    if encoder.thumbnails is None:
        near = own @ encoder.retriever.encode_images(pictures).T > threshold
        return near.any(dim=1).nonzero().ravel().numpy()
    alike = _alike_pairs(encoder.thumbnails.float().numpy(), pictures)
    shown = sorted({picture for _, picture in alike})
    if not shown:
        return np.zeros(0, np.int64)
    theirs = encoder.retriever.encode_images([pictures[row] for row in shown])
    place = {picture: position for position, picture in enumerate(shown)}
    return np.array(
        sorted({row for row, picture in alike if float(own[row] @ theirs[place[picture]]) > threshold}), dtype=np.int64
    )


def _alike_pairs(thumbnails: NDArray[np.float32], others: Sequence[bytes]) -> list[tuple[int, int]]:
    """Positions (of `thumbnails`, of the encoded `others`) that correlate by `ALIKE`, mirrored or not."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(others), 1024):
        theirs = np.stack([thumbnail(image) for image in others[start : start + 1024]])
        flipped = np.stack([mirrored(values) for values in theirs])
        near = np.maximum(thumbnails @ theirs.T, thumbnails @ flipped.T) > ALIKE
        found += [(int(row), start + int(other)) for row, other in np.argwhere(near)]
    return found


class MemoryWithout:
    """A memory as it looks without some of its pairs: searched and read like a `Memory`, nothing is deleted."""

    def __init__(self, memory: "Memory", excluded: NDArray[np.int64]) -> None:
        self._memory, self._excluded = memory, np.asarray(excluded, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        # Path, model, version, take, check_encoder, … don't depend on which pairs are hidden.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._memory, name)

    def __len__(self) -> int:
        return len(self.ids())

    def ids(self) -> NDArray[np.int64]:
        return self._visible(self._memory.ids())

    def matching(self, where: str) -> NDArray[np.int64]:
        return self._visible(self._memory.matching(where))

    def has_text(self) -> NDArray[np.bool_]:
        return self._memory.has_text()[~np.isin(self._memory.ids(), self._excluded)]

    def embeddings(self, ids: Any = None, *, of: Literal["image", "text"] = "image") -> torch.Tensor:
        return self._memory.embeddings(self.ids() if ids is None else ids, of=of)

    def search(self, queries: Any, *, hidden: Any = None, **options: Any) -> Any:
        also = np.asarray([] if hidden is None else hidden, np.int64)
        return self._memory.search(queries, hidden=np.union1d(self._excluded, also), **options)

    def _visible(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids[~np.isin(ids, self._excluded)]


def without(memory: "Memory", excluded: NDArray[np.int64]) -> "Memory":
    """The memory without the excluded pairs; itself where there are none."""
    return cast("Memory", MemoryWithout(memory, excluded)) if len(excluded) else memory


def shielded(
    encoder: "Encoder", sets: Sequence["Samples"], *, threshold: float = NEAR
) -> tuple["Encoder", NDArray[np.int64]]:
    """An encoder that consults a memory or a reference set, with the near-duplicates of all `sets` hidden there.

    Beside it the memory's ids or the reference set's rows that are hidden. Any other encoder comes back as it is.
    Images that can't be read are left out of the sets.
    """
    if has_references(encoder):
        for samples in sets:
            samples.drop_unreadable()
        referring = cast("ReferenceEncoder", encoder)
        rows = near_references(referring, [image for own in sets for image in own.images], threshold=threshold)
        return cast("Encoder", referring.without(rows)), rows
    if getattr(encoder, "memory", None) is None:
        return encoder, np.zeros(0, np.int64)
    consulting = cast("MemoryEncoder", encoder)
    excluded = near_sets(consulting.memory, consulting.base, sets, threshold=threshold)
    if not len(excluded):
        return encoder, excluded
    return cast("Encoder", consulting.with_memory(without(consulting.memory, excluded))), excluded


def has_references(encoder: Any) -> bool:
    """Whether an encoder looks its images up in a reference set of its own (RA-CLIP)."""
    from retroclip.fusion import ReferenceEncoder

    return isinstance(encoder, ReferenceEncoder)


def near_sets(
    memory: "Memory", encoder: "Encoder", sets: Sequence["Samples"], *, threshold: float = NEAR
) -> NDArray[np.int64]:
    """`near_duplicates` of all sets; their embeddings stay with them."""
    embeddings = torch.cat([samples.embed_base(encoder) for samples in sets])
    # A single set's are not gathered: frames of videos are decoded when they are asked for.
    pictures = sets[0].images if len(sets) == 1 else [image for samples in sets for image in samples.images]
    return near_duplicates(memory, embeddings, pictures=pictures, threshold=threshold)


def memory_record(
    encoder: Any, excluded: NDArray[np.int64], threshold: float | None, *, memory: "Memory | None" = None
) -> dict[str, Any]:
    """The fields of a `Result` about what was consulted, `excluded` being hidden in it; none where nothing was.

    That is `memory`, or else what the encoder itself has: a memory or a reference set.
    """
    memory = memory if memory is not None else getattr(encoder, "memory", None)
    pictured: dict[str, Any] = {}
    if memory is not None:
        name, pairs = memory.path.name, len(memory)
    elif has_references(encoder):
        name, pairs = REFERENCES, encoder.pairs
        pictured = {"near_thumbnails": encoder.thumbnails is not None}
    else:
        return {}
    return pictured | {
        "memory": name,
        "memory_pairs": pairs + len(excluded),
        "excluded_near_duplicates": len(excluded),
        "near_threshold": threshold,
    }


def context_record(context: "MethodContext") -> dict[str, Any]:
    """`memory_record` of what methods had: the context's memory, or what its encoder itself consults."""
    return memory_record(context.encoder, context.excluded_ids, context.near_threshold, memory=context.memory)
