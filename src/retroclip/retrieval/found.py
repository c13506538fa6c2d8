"""Which rows the search modes found for which classes: pure functions over ids and scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Finds:
    """One search mode's (row, class) finds, each once with its best score over templates; rank: its place (from 0)
    among the finds of that class, best score first, equal ones by row id."""

    rows: IdArray
    classes: IdArray
    scores: Scores
    ranks: IdArray


def collected(ids: IdArray, scores: Scores, class_of: IdArray) -> Finds:
    """Union over templates: hits (q, k) of prompts whose classes are class_of (q,) become finds."""
    rows, values = ids.reshape(-1), scores.reshape(-1)
    classes = np.repeat(class_of, ids.shape[1])
    real = rows >= 0
    rows, classes, values = rows[real], classes[real], values[real]
    order = np.lexsort((-values, classes, rows))
    rows, classes, values = rows[order], classes[order], values[order]
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (classes[1:] != classes[:-1])
    rows, classes, values = rows[first], classes[first], values[first]
    return Finds(rows, classes, values, _ranks(rows, classes, values))


def _ranks(rows: IdArray, classes: IdArray, scores: Scores) -> IdArray:
    order = np.lexsort((rows, -scores, classes))
    ordered = classes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return ranks


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row: classes that found it, best first; its score and rank for the best one; the modes that found it."""

    id: int
    classes: tuple[int, ...]
    score: float
    rank: int
    modes: tuple[str, ...]


def merged(finds: Mapping[str, Finds]) -> list[Candidate]:
    """Union over modes and dedup across classes, by ascending row id.

    Cosines between two texts and between a text and an image live on different scales (the modality gap), so they are
    compared only within a mode: a row's classes are ordered mode by mode in the order of `finds`, inside a mode by
    falling score. T2T comes first, so a pair that it found gets its best class from its caption; T2I decides where
    captions say nothing. The score is the cosine in the mode of the best class; the rank that class's best over modes.
    """
    modes = list(finds)
    parts = [(np.full(len(f.rows), i), f) for i, f in enumerate(finds.values())]
    mode = np.concatenate([m for m, _ in parts])
    rows = np.concatenate([f.rows for _, f in parts])
    classes = np.concatenate([f.classes for _, f in parts])
    scores = np.concatenate([f.scores for _, f in parts])
    ranks = np.concatenate([f.ranks for _, f in parts])
    order = np.lexsort((classes, -scores, mode, rows))
    bounds = np.flatnonzero(np.r_[True, np.diff(rows[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    candidates = []
    for own in np.split(order, bounds[1:]):
        if len(own):
            best = int(classes[own[0]])
            candidates.append(
                Candidate(
                    id=int(rows[own[0]]),
                    classes=tuple(dict.fromkeys(classes[own].tolist())),
                    score=float(scores[own[0]]),
                    rank=int(ranks[own][classes[own] == best].min()),
                    modes=tuple(modes[i] for i in sorted(set(mode[own].tolist()))),
                )
            )
    return candidates


def best_per_class(candidates: list[Candidate], limit: int) -> list[Candidate]:
    """At most `limit` candidates for each best class: by rank, so that modes take turns, then by score; same order."""
    taken: dict[int, int] = {}
    kept = set()
    for candidate in sorted(candidates, key=lambda c: (c.rank, -c.score, c.id)):
        count = taken.get(candidate.classes[0], 0)
        if count < limit:
            taken[candidate.classes[0]] = count + 1
            kept.add(candidate.id)
    return [candidate for candidate in candidates if candidate.id in kept]
