"""Everything side by side: one row a model and method, one column a task, and the mean over the tasks all rows have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retroclip.evaluation import Result
from retroclip.report.groups import BASE, Key, group, joined, key_of, leading, shots_text
from retroclip.report.labels import OF_THE_DATA, row_labels, varying

RETRIEVAL = "image-text-retrieval"


@dataclass(frozen=True)
class Column:
    """What the figures of a column were measured on; `circumstances` tell it from others of its task and metric."""

    task: str
    data: str
    metric: str
    protocol: str
    circumstances: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.task} ({', '.join([self.metric, *self.circumstances])})"


@dataclass(frozen=True)
class Overview:
    """`rows` are (model, method and its settings); `cells` maps positions of row and column to results."""

    rows: list[tuple[str, str]]
    columns: list[Column]
    cells: dict[tuple[int, int], Result]

    def mean(self, row: int) -> float | None:
        """The mean value over the columns that every row has; None where there is none."""
        values = [self.cells[row, column].value for column in self.shared]
        return float(np.mean([value for value in values if value is not None])) if values else None

    @property
    def shared(self) -> list[int]:
        """The columns in which every row has a value; none where they are of several protocols, which have no mean."""

        def has(row: int, column: int) -> bool:
            cell = self.cells.get((row, column))
            return cell is not None and cell.value is not None

        found = [c for c in range(len(self.columns)) if all(has(r, c) for r in range(len(self.rows)))]
        return found if len({self.columns[c].protocol for c in found}) == 1 else []


def overview(results: Sequence[Result]) -> Overview | None:
    """The overview of results that make at least two columns; None for fewer. Every result has a cell of its own.

    A column is a task, data, protocol, metric and number of labelled images, and a memory where one model has several.
    A row is a model and a method with the settings in which it differs from one result to another.
    """
    groups = [done for own in group(results) if (done := [r for r in own if r.error is None])]
    keys = [key_of(leading(own)) for own in groups]
    places = places_of(keys)
    columns = list(dict.fromkeys(place for own in places for place in own))
    if len(columns) < 2:
        return None
    names, kinds = model_names(results), portable(results)
    found: dict[tuple[tuple[str, str], int], Result] = {}
    for own, homes in zip(groups, places, strict=True):
        also = {position: kinds[result.protocol, result.method] for position, result in enumerate(own)}
        for result, label in zip(own, row_labels(own, also), strict=True):
            for column in map(columns.index, homes):
                row = (names[result.model, result.fingerprint], label)
                while (row, column) in found:  # a model made for this task anew
                    row = (row[0], f"{row[1]}, fingerprint {str(result.fingerprint)[:8]}")
                found[row, column] = result
    rows = list(dict.fromkeys(row for row, _ in found))
    cells = {(rows.index(row), column): result for (row, column), result in found.items()}
    members = [[key for key, own in zip(keys, places, strict=True) if column in own] for column in columns]
    return Overview(rows, titled(columns, members), cells)


def places_of(keys: Sequence[Key]) -> list[list[Key]]:
    """For each group's key those of its columns, without model; with the memory where a model has several."""
    bare = [key._replace(model="", fingerprint=None, memory=None) for key in keys]
    places = []
    for column in bare:
        alike = [key for key, other in zip(keys, bare, strict=True) if other == column]
        own = Counter(model for model, _ in {(key.model, key.memory) for key in alike})
        memories = list(dict.fromkeys(key.memory for key in alike if key.memory is not None))
        places.append([column._replace(memory=each) for each in memories] if max(own.values()) > 1 else [column])
    # What reads no memory stands beside each of them.
    return [
        [place for place in own if place.memory is None or key.memory in (None, place.memory)]
        for key, own in zip(keys, places, strict=True)
    ]


def model_names(results: Sequence[Result]) -> dict[tuple[str, str | None], str]:
    """What to call the model of each (name, fingerprint): its name, with the fingerprint where several have that name.

    What a method makes of a model for one task has a fingerprint for each task: it is called by its name alone.
    """
    done = dict.fromkeys((r.model, r.fingerprint) for r in results if r.error is None)
    own = {(r.model, r.fingerprint) for r in results if r.error is None and not made_for_a_task(r)}
    often = Counter(name for name, _ in own)
    return {
        (name, mark): f"{name} {str(mark)[:8]}" if (name, mark) in own and often[name] > 1 else name
        for name, mark in done
    }


def made_for_a_task(result: Result) -> bool:
    """Whether the fingerprint may be that of what a method made, and not of the model that it was made of."""
    return result.method != BASE and (result.protocol != "classification" or result.task == RETRIEVAL)


def portable(results: Sequence[Result]) -> dict[tuple[str, str], set[str]]:
    """For each protocol and method the settings that differ between its results anywhere, so that no row mixes them."""
    found: dict[tuple[str, str], set[str]] = {}
    for protocol, method in dict.fromkeys((result.protocol, result.method) for result in results):
        alike = [result for result in results if result.protocol == protocol]
        own = [result for result in alike if result.method == method]
        differing = varying(own, absent=True) if protocol == "classification" else varying(alike)
        found[protocol, method] = differing - OF_THE_DATA
    return found


def titled(columns: Sequence[Key], members: Sequence[Sequence[Key]]) -> list[Column]:
    """The columns in words, no two alike; memories are named where there are several in all."""
    memories = [list(dict.fromkeys(key.memory for key in own if key.memory is not None)) for own in members]
    several = len({name for own in memories for name in own}) > 1
    words = []
    for key, own in zip(columns, memories, strict=True):
        named = [key.memory] if key.memory is not None else own
        protocol = RETRIEVAL if key.task == RETRIEVAL else str(key.protocol)
        told = [protocol] if protocol not in (RETRIEVAL, "classification") else []
        told += [shots_text(key)] if key.learnt else []
        told += [f"memory {' or '.join(named)}"] if several and named else []
        data = joined(key.dataset, key.split)
        words.append(Column(key.task, data, str(key.metric), protocol, tuple(told)))
    further: list[list[str | None]] = [
        [column.data for column in words],
        [key.data_hash and f"hash {key.data_hash[:8]}" for key in columns],
        [key.learnt and f"from {str(key.learnt[1])[:8]}" for key in columns],
    ]
    for texts in further:
        often = Counter(column.name for column in words)
        words = [
            replace(column, circumstances=(*column.circumstances, text)) if text and often[column.name] > 1 else column
            for column, text in zip(words, texts, strict=True)
        ]
    return words
