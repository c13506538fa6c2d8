"""Whether the pairs of a stream are in a memory already."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retroclip.memory.blocklist import HASHES
from retroclip.memory.embedded import Embedded
from retroclip.memory.ingest import stored_captions
from retroclip.memory.keys import PART_AND_PLACE, Hashes, key_hashes
from retroclip.memory.metadata import record_of
from retroclip.memory.pictures import is_kept_of
from retroclip.memory.schema import IdArray
from retroclip.memory.store import Store
from retroclip.pairs import Pair, Rejected

FORMER = f"regexp_like(key, '^{PART_AND_PLACE}$')"
TOLD = ("source", "captions", "label", "metadata")
LOOKED_UP = 64  # pairs whose rows are read at a time: one by one, each takes longer than to read the pair


class KnownRows:
    """The rows of `store` that have the keys of a stream's pairs.

    committed: the id of each key; labels_as_captions: as in `Ingest`.
    """

    def __init__(self, store: Store, committed: Mapping[str, int], labels_as_captions: bool) -> None:
        self._store, self._committed = store, committed
        self._labels_as_captions = labels_as_captions
        self._rows: dict[int, dict[str, Any]] = {}

    def ahead(self, items: Iterable[Pair | Rejected]) -> Iterator[Pair | Rejected]:
        """The stream, with the rows of some pairs read together before the first of them is given out."""
        stream = iter(items)
        while some := list(islice(stream, LOOKED_UP)):
            self._rows = {}
            self._look_up({self._committed[item.key] for item in some if item.key in self._committed})
            yield from some

    def holds(self, pair: Pair) -> bool:
        """Whether the row of the pair's key is that pair: by its image, or where none is kept by all else."""
        row_id = self._committed[pair.key]
        if row_id not in self._rows:
            self._look_up({row_id})
        row = self._rows[row_id]
        return self._tells_of(row, pair) if row["image"] is None else is_kept_of(row["image"], pair.image)

    def _tells_of(self, row: dict[str, Any], pair: Pair) -> bool:
        """Whether source, texts and metadata of a row without image are the pair's; a hash in both decides alone."""
        if pair.source != row["source"]:
            return False
        own, there = record_of(json.dumps(pair.metadata, default=str)), record_of(row["metadata"])
        for name in HASHES:  # as img2dataset writes them beside each image
            if own.get(name) and there.get(name):
                return bool(own[name] == there[name])
        captions = list(stored_captions(pair, self._labels_as_captions))
        same = (captions, pair.label) == ((row["captions"] or []), row["label"])
        return same and all(own[name] == there[name] for name in own.keys() & there.keys())

    def _look_up(self, ids: set[int]) -> None:
        wanted = np.array(sorted(ids), np.int64)
        if len(wanted):
            rows = self._store.take(wanted, ["image", *TOLD]).to_pylist()
            self._rows.update(zip(wanted.tolist(), rows, strict=True))


class FormerKeys:
    """The keys by part and place that rows of embedding folders without names had before 2026-11-26, with their ids."""

    def __init__(self, store: Store) -> None:
        self._store = Store(store.directory, store.dim)  # stays as it is while the import takes rows away

    @cached_property
    def _known(self) -> tuple[Hashes, IdArray]:
        """Sorted hashes of the keys, and the ids; looked for when rows without names come."""
        empty = np.zeros(0, np.int64)
        found = [(empty, empty), *((key_hashes(keys), ids) for keys, ids in self._store.key_batches(FORMER))]
        hashes, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(hashes)
        return hashes[order], ids[order]

    def kept(self, rows: Embedded) -> Embedded:
        """The rows; those that a row of their former key equals to the bit get that key again."""
        if rows.former.null_count == len(rows.former) or not len(self._known[1]):
            return rows
        known, own = self._known
        hashes = key_hashes(rows.former.to_pylist())
        found = np.searchsorted(known, hashes).clip(max=len(own) - 1)
        ids = np.where(known[found] == hashes, own[found], -1)
        places = np.flatnonzero(ids >= 0)
        if not len(places):
            return rows
        there = _rows_as_bytes(self._store.take(ids[places], ["image_embedding"]))
        same = places[there == _rows_as_bytes(rows.table.select(["image_embedding"]).take(pa.array(places)))]
        mask = np.zeros(len(ids), bool)
        mask[same] = True
        keys = pc.if_else(pa.array(mask), rows.former, rows.table["key"].combine_chunks())
        return replace(rows, table=rows.table.set_column(0, "key", keys))


def _rows_as_bytes(table: pa.Table) -> np.ndarray:
    """Embeddings (n, d) as n values that can be compared."""
    column = table["image_embedding"].combine_chunks()
    values = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1))
    return values.view(np.dtype((np.void, values.itemsize * values.shape[1])))[:, 0]
