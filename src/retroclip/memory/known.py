"""Whether the pairs of a stream are in a memory already."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from retroclip.memory.pictures import is_kept_of
from retroclip.memory.store import Store
from retroclip.pairs import Pair, Rejected

LOOKED_UP = 64  # pairs whose rows are read at a time: one by one, each takes longer than to read the pair


class KnownRows:
    """The rows of `store` that have the keys of a stream's pairs; `committed`: the id of each key."""

    def __init__(self, store: Store, committed: Mapping[str, int]) -> None:
        self._store, self._committed = store, committed
        self._rows: dict[int, dict[str, Any]] = {}

    def ahead(self, items: Iterable[Pair | Rejected]) -> Iterator[Pair | Rejected]:
        """The stream, with the rows of some pairs read together before the first of them is given out."""
        stream = iter(items)
        while some := list(islice(stream, LOOKED_UP)):
            self._rows = {}
            self._look_up({self._committed[item.key] for item in some if item.key in self._committed})
            yield from some

    def holds(self, pair: Pair) -> bool:
        """Whether the row of the pair's key is that pair: by its image, or where none is kept by its source's name."""
        row_id = self._committed[pair.key]
        if row_id not in self._rows:
            self._look_up({row_id})
        row = self._rows[row_id]
        return pair.source == row["source"] if row["image"] is None else is_kept_of(row["image"], pair.image)

    def _look_up(self, ids: set[int]) -> None:
        wanted = np.array(sorted(ids), np.int64)
        if len(wanted):
            rows = self._store.take(wanted, ["image", "source"]).to_pylist()
            self._rows.update(zip(wanted.tolist(), rows, strict=True))
