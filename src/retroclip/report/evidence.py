"""What stands behind the figures: images with the neighbours they met, retrieved pairs, and the memory's contents."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retroclip.classifiers.naming import ClassNames
from retroclip.evaluation import Result, Samples

if TYPE_CHECKING:
    import torch

    from retroclip.memory import Memory
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task

MAX_CAPTIONS_READ = 200_000
BATCH = 10_000


@dataclass(frozen=True)
class ShownPair:
    """A pair of the memory as the report shows it; `image` is encoded bytes or None, `score` a cosine."""

    image: bytes | None
    caption: str
    score: float
    source: str = ""


@dataclass(frozen=True)
class Example:
    """An evaluation image, what was predicted before and after, and its nearest pairs in the memory."""

    image: bytes
    key: str
    truth: str
    before: str
    before_confidence: float
    after: str
    after_confidence: float
    neighbours: list[ShownPair]

    @property
    def helped(self) -> bool:
        return self.after == self.truth

    @property
    def hurt(self) -> bool:
        return self.before == self.truth


@dataclass(frozen=True)
class RetrievedClass:
    """Some of the pairs that retrieval found for a class, and how many it found."""

    name: str
    found: int
    pairs: list[ShownPair]


@dataclass(frozen=True)
class SourceSummary:
    """One source in the memory: pairs, those with a caption, those whose captions name a class of the task."""

    source: str
    pairs: int
    captioned: int
    naming: int
    licences: list[str]


@dataclass(frozen=True)
class MemorySummary:
    """What a memory holds, by source. `read` pairs were looked at (all of them, up to `MAX_CAPTIONS_READ`)."""

    name: str
    pairs: int
    read: int
    sources: list[SourceSummary] = field(default_factory=list)

    @property
    def naming(self) -> int:
        return sum(source.naming for source in self.sources)

    @property
    def naming_share(self) -> float:
        """Share of the pairs looked at whose captions name a class."""
        return self.naming / self.read if self.read else 0.0


def collect_examples(
    base: Result,
    result: Result,
    samples: Samples,
    memory: "Memory",
    queries: "torch.Tensor",
    *,
    helped: int = 4,
    hurt: int = 4,
    wrong: int = 0,
    k: int = 5,
    seed: int = 0,
) -> list[Example]:
    """Images that the method put right, those that it spoilt, those wrong both times, drawn at random (not by looks).

    `queries` `(n, d)` are the samples' embeddings under the memory's encoder; both results need their outcomes (the
    first seed is shown).
    """
    before, after = base.outcomes[0], result.outcomes[0]
    rng = np.random.default_rng(seed)
    rows = [
        *_some(np.flatnonzero(~before.correct & after.correct), helped, rng),
        *_some(np.flatnonzero(before.correct & ~after.correct), hurt, rng),
        *_some(np.flatnonzero(~before.correct & ~after.correct), wrong, rng),
    ]
    if not rows:
        return []
    hits = memory.search(queries[rows], by="image", k=k)
    return [
        Example(
            image=samples.images[row],
            key=samples.keys[row],
            truth=samples.truth(row).replace("\n", ", "),
            before=samples.classes[before.predicted[row]],
            before_confidence=float(before.confidence[row]),
            after=samples.classes[after.predicted[row]],
            after_confidence=float(after.confidence[row]),
            neighbours=shown_pairs(memory, np.asarray(hits.ids)[position], np.asarray(hits.scores)[position]),
        )
        for position, row in enumerate(rows)
    ]


def _some(rows: NDArray[np.int64], number: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.choice(rows, size=min(number, len(rows)), replace=False).tolist())


def shown_pairs(memory: "Memory", ids: NDArray[np.int64], scores: NDArray[np.floating]) -> list[ShownPair]:
    """The pairs of `ids` `(k,)` (−1: none) with their scores `(k,)`, in that order."""
    kept = np.flatnonzero(ids >= 0)
    if not len(kept):
        return []
    rows = memory.take(ids[kept], ["image", "caption", "source"]).to_pylist()
    return [
        ShownPair(row["image"], row["caption"] or "", float(scores[position]), row["source"] or "")
        for position, row in zip(kept, rows, strict=True)
    ]


def collect_retrieved(
    retrieved: "Retrieved", task: "Task", classes: Sequence[str], *, per_class: int = 5
) -> list[RetrievedClass]:
    """For each named class the pairs that it is the best class of, highest score first."""
    best = np.array([found[0] for found in retrieved.classes], dtype=np.int64)
    scores = np.asarray(retrieved.scores, dtype=float)
    shown = []
    for name in classes:
        rows = np.flatnonzero(best == task.classes.index(name))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        pairs = [
            ShownPair(retrieved.images[row], (retrieved.captions[row] or ("",))[0], float(scores[row]))
            for row in rows[:per_class].tolist()
        ]
        shown.append(RetrievedClass(name, len(rows), pairs))
    return shown


def spread(names: Sequence[str], number: int) -> list[str]:
    """`number` of the names, evenly spaced, the first and the last included."""
    if len(names) <= number:
        return list(names)
    return [names[round(position * (len(names) - 1) / max(1, number - 1))] for position in range(number)]


def summarise_memory(memory: "Memory", task: "Task", *, name: str = "") -> MemorySummary:
    """Count the memory's pairs by source, and how many captions name a class of the task."""
    names, ids = ClassNames(task), memory.ids()
    pairs, captioned, naming = Counter[str](), Counter[str](), Counter[str]()
    licences: dict[str, set[str]] = {}
    read = ids if len(ids) <= MAX_CAPTIONS_READ else np.random.default_rng(0).choice(ids, MAX_CAPTIONS_READ, False)
    for start in range(0, len(read), BATCH):
        for row in memory.take(read[start : start + BATCH], ["captions", "source", "license"]).to_pylist():
            source, captions = row["source"] or "unnamed", row["captions"] or []
            pairs[source] += 1
            captioned[source] += bool(captions)
            naming[source] += bool(names.found_in(captions))
            licences.setdefault(source, set()).update([row["license"]] if row["license"] else [])
    rows = [SourceSummary(s, n, captioned[s], naming[s], sorted(licences[s])) for s, n in pairs.most_common()]
    return MemorySummary(name=name, pairs=len(ids), read=len(read), sources=rows)
