"""Which results may stand in one table: the same task, data, protocol, metric, labelled images, model and memory."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from retroclip.evaluation import Result

BASE = "zero-shot"
# What two measurements of the very same thing may differ in; zero-shot doesn't read the memory it is measured beside.
INCIDENTAL = {"seconds", "fit_seconds", "predict_seconds", "date", "versions", "history"}
OF_MEMORY = {"memory", "memory_pairs", "excluded_near_duplicates", "near_threshold", "near_thumbnails"}


class Key(NamedTuple):
    """What the figures of one table have in common; None is what a result doesn't have, and so fits any.

    `learnt` is how many labelled images of each class a method learnt from, and the hash of their set.
    """

    task: str
    dataset: str
    split: str | None
    model: str
    fingerprint: str | None
    data_hash: str | None
    protocol: str | None
    metric: str | None
    learnt: tuple[Any, Any] | None
    memory: str | None

    def within(self, other: "Key") -> bool:
        """Whether all that this key has is the same in the other one."""
        return all(mine in (None, theirs) for mine, theirs in zip(self, other, strict=True))


def key_of(result: Result) -> Key:
    """The key of a result. One that failed may know its task, data and model only."""
    failed = result.error is not None
    return Key(
        task=result.task,
        dataset=result.dataset,
        split=result.split,
        model=result.model,
        fingerprint=result.fingerprint,
        data_hash=result.data_hash,
        protocol=None if failed else result.protocol,
        metric=None if failed else result.metric,
        learnt=learnt_from(result),
        memory=result.memory,
    )


def learnt_from(result: Result) -> tuple[Any, Any] | None:
    """Shots and hash of the labelled images that a method of classification learnt from."""
    if result.protocol != "classification" or "shots" not in result.options:
        return None
    return result.options["shots"], result.options.get("train_hash")


def shots_text(key: Key) -> str:
    """How many labelled images of each class a table's methods learnt from, in words."""
    shots = key.learnt[0] if key.learnt else None
    return "all labelled images" if shots == "full" else f"{shots} shot{'' if shots == 1 else 's'}"


def joined(dataset: str, split: str | None) -> str:
    """`dataset#split`; a split called all is the whole file."""
    return f"{dataset}#{split}" if split not in (None, "", "all") else dataset


def group(results: Sequence[Result]) -> list[list[Result]]:
    """Results that may stand in one table, in order of appearance.

    What needs no memory, or no labelled image, stands in the table of every memory and number of shots it was measured
    beside; there a repetition with the very same figures stands once.
    """
    keys = [key_of(result) for result in results]
    done = list(dict.fromkeys(key for key, result in zip(keys, results, strict=True) if result.error is None))
    # A failed row alone has nothing to stand beside.
    whole = [key for key in done if not any(key != other and key.within(other) for other in done)]
    whole += [key for key in dict.fromkeys(keys) if not any(key.within(other) for other in whole)]
    members: dict[Key, list[Result]] = {}
    for key, result in zip(keys, results, strict=True):
        homes = [other for other in whole if key.within(other)]
        for home in homes[:1] if result.error is not None else homes:
            members.setdefault(home, []).append(result)
    return [once(own) for own in members.values()]


def leading(results: Sequence[Result]) -> Result:
    """The row of a group that has all that its rows share: a memory and labelled images, where any has."""
    done = [result for result in results if result.error is None]
    return max(done or results, key=lambda result: sum(part is not None for part in key_of(result)))


def once(results: Sequence[Result]) -> list[Result]:
    """The results without those that repeat the figures of an earlier one under the same circumstances."""
    kept: list[Result] = []
    known: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        figures = result.model_dump(exclude=INCIDENTAL | (OF_MEMORY if result.method == BASE else set()))
        figures["options"] = {name: value for name, value in result.options.items() if name != "suite"}
        if figures not in known.setdefault(result.method, []):
            known[result.method].append(figures)
            kept.append(result)
    return kept


def tell_apart(groups: Sequence[Sequence[Result]]) -> list[list[str]]:
    """For each group what its caption must add, because another one has the same names and yet is something else."""
    keys = [key_of(leading(own)) for own in groups]
    added: list[list[str]] = [[] for _ in groups]
    named = [
        key._replace(fingerprint=None, data_hash=None, learnt=key.learnt and (key.learnt[0], None)) for key in keys
    ]
    hidden = {
        "fingerprint": [key.fingerprint for key in keys],
        "data hash": [key.data_hash for key in keys],
        "labelled images' hash": [key.learnt and key.learnt[1] for key in keys],
    }
    for name, values in hidden.items():
        for position, value in enumerate(values):
            rivals = [other for other, same in zip(values, named, strict=True) if same == named[position]]
            if value is not None and any(other != value for other in rivals):
                added[position].append(f"{name} {value[:8]}")
    return added
