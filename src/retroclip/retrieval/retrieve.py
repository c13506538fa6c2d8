"""From a task's class names to the pairs of a memory: REACT's retrieval (section 3.1; methods.md section 3)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from retroclip.errors import BadImageError, MemoryStoreError, SourceError, TaskError
from retroclip.pairs import LabelledSet, decode_image
from retroclip.retrieval.cover import covering_per_class
from retroclip.retrieval.filters import clip_scores, distinct, near_any, well_matched
from retroclip.retrieval.found import Candidate, best_per_class, collected, merged
from retroclip.retrieval.neighbours import NEAR
from retroclip.retrieval.retrieved import Retrieved

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.tasks import Task

KEYS: dict[str, Literal["image", "text"]] = {"t2t": "text", "t2i": "image"}
"""Search modes: class text against the pairs' texts, and against their images."""
MAX_UNREADABLE = 0.1
SELECTIONS = ("rank", "cover")


def retrieve(
    memory: "Memory",
    task: "Task",
    *,
    encoder: Any = None,
    search: Sequence[str] = ("t2t", "t2i"),
    k: int = 50,
    where: str | None = None,
    min_clip_score: float | str | None = None,
    exclude_near: LabelledSet | torch.Tensor | None = None,
    near_threshold: float = NEAR,
    drop_repeats: bool = False,
    max_per_class: int | None = None,
    selection: str = "rank",
) -> Retrieved:
    """The memory's pairs that the task's prompts find: k per template and mode, united, each pair once.

    encoder: the memory's own model, loaded when None. where: SQL predicate for the pairs. min_clip_score: drop pairs
    whose image and text agree less, a cosine or "quantile" (the lowest 6.5 %). exclude_near: an evaluation set, or its
    image embeddings (n, d): pairs whose image has a cosine above near_threshold with one of them are dropped; images
    of the set that can't be read are skipped and counted.
    drop_repeats: of pairs whose images are that near to each other keep the best ranked. max_per_class: keep so many of
    the pairs of each best class: the best ranked, or with selection="cover" those that cover the others (COBRA-style,
    `cover.facility_location`). All that is dropped is counted in `provenance["counts"]`. A pair's best class is told
    in `found.merged`. Raises TaskError for a search mode or selection that isn't one, MemoryStoreError for another
    model's memory.

    >>> found = retrieve(memory, task, search=("t2t", "t2i"), k=50)
    >>> len(found), {task.classes[own[0]] for own in found.classes} <= {"cat", "dog"}
    (20, True)
    """
    modes = _ordered(search)
    if selection not in SELECTIONS:
        raise TaskError(f"a selection is {' or '.join(SELECTIONS)}, not {selection!r}")
    if encoder is None:
        from retroclip.encoders import load

        encoder = load(memory.model_reference)
    memory.check_encoder(encoder)
    prompts = [task.prompts(name) for name in task.classes]
    class_of = np.repeat(np.arange(len(prompts)), [len(own) for own in prompts])
    queries = encoder.encode_texts([prompt for own in prompts for prompt in own])
    finds = {}
    for mode in modes:
        hits = memory.search(queries, by=KEYS[mode], k=k, where=where)
        finds[mode] = collected(hits.ids, hits.scores, class_of)
    candidates = merged(finds)
    counts = {"rows": len(memory), "found": len(candidates)}
    counts |= {f"found_{mode}": len(np.unique(own.rows)) for mode, own in finds.items()}

    def keep(what: str, kept: list[Candidate]) -> list[Candidate]:
        counts[f"dropped_{what}"] = len(candidates) - len(kept)
        return kept

    if exclude_near is not None:
        evaluation = _evaluation(exclude_near, encoder)
        if isinstance(exclude_near, LabelledSet):
            counts["unreadable_evaluation"] = len(exclude_near) - len(evaluation) + len(exclude_near.rejected)
        candidates = keep("near_evaluation", _not_near(memory, candidates, evaluation, near_threshold))
    if min_clip_score is not None:
        candidates = keep("by_clip_score", _matched(memory, candidates, min_clip_score))
    if drop_repeats:
        candidates = keep("repeats", _unrepeated(memory, candidates, near_threshold))
    if max_per_class is not None:
        if selection == "cover":
            chosen = covering_per_class(memory, candidates, max_per_class)
        else:
            chosen = best_per_class(candidates, max_per_class)
        candidates = keep("over_class_limit", chosen)
    counts["kept"] = len(candidates)
    provenance = {
        "memory": str(memory.path),
        "memory_version": memory.version,
        "model": memory.model,
        "model_reference": memory.model_reference,
        "fingerprint": memory.fingerprint,
        "search": list(modes),
        "k_per_template": k,
        "where": where,
        "min_clip_score": min_clip_score,
        "near_threshold": near_threshold if exclude_near is not None or drop_repeats else None,
        "exclude_near": f"{exclude_near.name} {exclude_near.split}" if isinstance(exclude_near, LabelledSet) else None,
        "max_per_class": max_per_class,
        "selection": selection if max_per_class is not None else None,
        "counts": counts,
    }
    return _gathered(memory, task, candidates, provenance)


def _ordered(search: Sequence[str]) -> tuple[str, ...]:
    names = [search] if isinstance(search, str) else list(search)
    unknown = [name for name in names if name not in KEYS]
    if unknown or not names:
        raise TaskError(f"search modes are {' and '.join(KEYS)}, not {', '.join(unknown) or 'none'}")
    return tuple(mode for mode in KEYS if mode in names)


def _evaluation(images: LabelledSet | torch.Tensor, encoder: Any) -> torch.Tensor:
    embeddings = images if isinstance(images, torch.Tensor) else _readable_embedded(images, encoder)
    if embeddings.ndim != 2 or embeddings.shape[1] != encoder.dim:
        raise MemoryStoreError(f"exclude_near has shape {tuple(embeddings.shape)}, the memory needs (n, {encoder.dim})")
    return torch.nn.functional.normalize(embeddings.float().cpu(), dim=1)


def _readable_embedded(data: LabelledSet, encoder: Any) -> torch.Tensor:
    """Embeddings of the images that can be decoded; SourceError if over 10 % can't, as in an evaluation."""
    try:
        return encoder.encode_images(data.images)
    except BadImageError:
        # Looked for only now: decoding everything beforehand would double the cost of every clean run.
        readable = [image for image in data.images if _is_readable(image)]
    bad = len(data) - len(readable)
    if bad > MAX_UNREADABLE * len(data):
        raise SourceError(f"{data.name}: {bad} of {len(data)} images can't be read: mend it, or exclude another set")
    return encoder.encode_images(readable)


def _is_readable(image: bytes) -> bool:
    try:
        decode_image(image)
    except BadImageError:
        return False
    return True


def _ids(candidates: list[Candidate]) -> npt.NDArray[np.int64]:
    return np.array([candidate.id for candidate in candidates], np.int64)


def _masked(candidates: list[Candidate], mask: torch.Tensor) -> list[Candidate]:
    return [candidate for candidate, kept in zip(candidates, mask.tolist(), strict=True) if kept]


def _not_near(
    memory: "Memory", candidates: list[Candidate], evaluation: torch.Tensor, threshold: float
) -> list[Candidate]:
    return _masked(candidates, ~near_any(memory.embeddings(_ids(candidates)), evaluation, threshold))


def _matched(memory: "Memory", candidates: list[Candidate], minimum: float | str) -> list[Candidate]:
    ids = _ids(candidates)
    scores = clip_scores(memory.embeddings(ids, of="image"), memory.embeddings(ids, of="text"))
    return _masked(candidates, well_matched(scores, minimum))


def _unrepeated(memory: "Memory", candidates: list[Candidate], threshold: float) -> list[Candidate]:
    ranked = sorted(candidates, key=lambda candidate: (candidate.rank, -candidate.score, candidate.id))
    kept = _masked(ranked, distinct(memory.embeddings(_ids(ranked)), threshold))
    return sorted(kept, key=lambda candidate: candidate.id)


def _gathered(memory: "Memory", task: "Task", candidates: list[Candidate], provenance: dict[str, Any]) -> Retrieved:
    ids = _ids(candidates)
    rows = memory.take(ids, ["key", "image", "captions", "source", "license"]).to_pydict()
    return Retrieved(
        task=task,
        ids=ids,
        keys=rows["key"],
        captions=[tuple(own or ()) for own in rows["captions"]],
        images=rows["image"],
        classes=[candidate.classes for candidate in candidates],
        scores=np.array([candidate.score for candidate in candidates], np.float32),
        modes=[candidate.modes for candidate in candidates],
        image_embeddings=memory.embeddings(ids, of="image"),
        text_embeddings=memory.embeddings(ids, of="text"),
        sources=rows["source"],
        licenses=rows["license"],
        provenance=provenance,
    )
