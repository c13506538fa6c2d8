"""The rows that a memory's searches compare: read into RAM when they are few, else from the index's file of rows."""

import numpy as np
import torch

from retroclip.memory.build import held_rows
from retroclip.memory.index import OpenIndex
from retroclip.memory.planner import EXACT_ROWS
from retroclip.memory.rows import ChosenRows, HeldRows, JoinedRows, Rows
from retroclip.memory.schema import IdArray
from retroclip.memory.search import Keys
from retroclip.memory.store import Store


def open_keys(store: Store, of: str, live: IdArray, opened: OpenIndex | None) -> Keys:
    """The live rows that have an embedding `of` "image" or "text"; of those in the index only ids are read.

    live: sorted ids of all live rows. Raises MemoryStoreError where embeddings are not finite.
    """
    if opened is not None:
        places = np.flatnonzero(np.isin(opened.ids, live, assume_unique=True))
        ids, values = store.vectors(of, after=opened.entry.last_row_id)
        _check_finite(store, of, ids, torch.from_numpy(values))
        old: Rows = opened.rows if len(places) == len(opened.ids) else ChosenRows(opened.rows, places)
        rows: Rows = JoinedRows(old, HeldRows(torch.from_numpy(values))) if len(ids) else old
        return Keys(np.concatenate([opened.ids[places], ids]), rows, places)
    if len(live) <= EXACT_ROWS:
        ids, values = store.vectors(of)
        _check_finite(store, of, ids, torch.from_numpy(values))
        return Keys(ids, HeldRows(torch.from_numpy(values)))
    ids, half = held_rows(store, of)
    _check_finite(store, of, ids, half.scales)
    return Keys(ids, half)


def _check_finite(store: Store, of: str, ids: IdArray, values: torch.Tensor) -> None:
    store.check_finite(of, ids, values.sum(dim=1).numpy() if values.ndim == 2 else values.numpy())
