"""Building indexes within bounded RAM, and catching up with added and deleted rows."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.arrays import new_arrays
from retroclip.memory.index import IndexFolder, KeyIndex, OpenIndex, Searchable, stored_rows
from retroclip.memory.kinds import FaissIndex, add_rows, build_faiss, faiss
from retroclip.memory.lists import ListIndex, build_lists, extend_lists
from retroclip.memory.measure import latency, own_samples, tuned
from retroclip.memory.planner import Plan
from retroclip.memory.progress import steps
from retroclip.memory.rows import ChosenRows, HalfRows, unit_scales
from retroclip.memory.schema import IdArray
from retroclip.memory.store import Store

GROWN = 2.0  # times the rows it was trained on: then it is trained again
DEAD = 0.3  # share of an index's rows that may be deleted before it is built again


def build_indexes(
    folder: IndexFolder, store: Store, plans: dict[str, Plan], recall: float, progress: bool = False
) -> None:
    """Bring the indexes of all modalities in `plans` to the store's version, and replace the present ones at once.

    An index of the planned kind that most rows are in is extended, without training; else it is built anew. Search
    parameters are tuned each time. The caller holds the writer's lock.
    """
    folder.folder.mkdir(parents=True, exist_ok=True)
    folder.tidy()
    try:
        _build_all(folder, store, plans, recall, progress)
    except BaseException:
        folder.tidy()  # copies of all rows, as large as the memory's embeddings
        raise


def _build_all(folder: IndexFolder, store: Store, plans: dict[str, Plan], recall: float, progress: bool) -> None:
    live = store.ids()
    made: dict[str, tuple[Path, Path, int, float]] = {}
    for name, plan in plans.items():
        start = time.perf_counter()
        present = _extensible(folder, name, store.version, plan, live)
        index, rows = folder.folder / f"{name}.index.tmp", folder.folder / f"{name}.rows.tmp"
        trained = (
            _extended(folder, index, rows, store, name, present, live, progress)
            if present
            else _built(index, rows, store, name, plan, progress)
        )
        made[name] = index, rows, trained, time.perf_counter() - start
    samples = {name: own_samples(stored_rows(rows)[1]) for name, (_, rows, _, _) in made.items()}
    built: dict[str, tuple[KeyIndex, Path, Path]] = {}
    for name, (path, rows_path, trained, seconds) in made.items():
        plan = plans[name]
        ids, stored = stored_rows(rows_path)
        opened: Searchable = ListIndex(path) if plan.kind == "ivf" else FaissIndex.read(path)
        queries = dict(samples[name])
        queries.update(("cross", sample["own"].foreign()) for other, sample in samples.items() if other != name)
        parameters, measured = tuned(opened, stored, queries, recall)
        entry = KeyIndex(plan.kind, store.version, len(ids), int(ids[-1]), parameters, measured)
        entry.factory, entry.trained_rows, entry.ram = plan.factory, trained, plan.ram
        entry.latency, entry.seconds = latency(opened, stored, parameters), round(seconds, 1)
        built[name] = entry, path, rows_path
    folder.replace(built)


def _built(index: Path, rows: Path, store: Store, name: str, plan: Plan, progress: bool) -> int:
    ids = store.vector_ids(name)
    _write_rows(rows, store, name, ids, progress)
    stored = stored_rows(rows)[1]
    with steps(f"{name}s, index", "rows", len(ids), progress) as done:
        if plan.kind == "ivf":
            build_lists(index, stored, lists=plan.lists, dims=plan.dims, done=done)
        else:
            faiss.write_index(build_faiss(plan.factory, stored, done), str(index))
    return len(ids)


def _extensible(folder: IndexFolder, name: str, version: int, plan: Plan, live: IdArray) -> OpenIndex | None:
    """The present index if it can be brought up to date: same kind, little deleted, not grown too much, undamaged."""
    try:
        entry = folder.entries().get(name)
        if entry is None or entry.kind != plan.kind or folder.problem(entry):
            return None
        present = folder.open(name, version)
    except MemoryStoreError:
        return None
    if present is None or (plan.kind == "factory" and entry.factory != plan.factory):
        return None
    if isinstance(present.index, ListIndex) and present.index.codes.shape[1] != plan.dims:
        return None
    alive = np.isin(present.ids, live, assume_unique=True).sum()
    if alive < (1 - DEAD) * len(present.ids) or plan.rows > GROWN * entry.trained_rows:
        return None
    return present


def _extended(
    folder: IndexFolder,
    index: Path,
    rows: Path,
    store: Store,
    name: str,
    present: OpenIndex,
    live: IdArray,
    progress: bool,
) -> int:
    """Lists drop the deleted rows; FAISS's kinds keep them, and searches leave them out."""
    dropping = isinstance(present.index, ListIndex)
    kept = np.flatnonzero(np.isin(present.ids, live, assume_unique=True)) if dropping else np.arange(len(present.ids))
    added = store.vector_ids(name, after=present.entry.last_row_id)
    _write_rows(rows, store, name, added, progress, before=(present, kept))
    fresh = ChosenRows(stored_rows(rows)[1], np.arange(len(kept), len(kept) + len(added)))
    with steps(f"{name}s, index", "rows", len(added), progress) as done:
        if isinstance(present.index, ListIndex):
            extend_lists(index, present.index, kept, fresh, done)
        else:
            whole = faiss.read_index(str(folder.folder / present.entry.file))
            add_rows(whole, fresh, done)
            faiss.write_index(whole, str(index))
    return present.entry.trained_rows


def _write_rows(
    path: Path,
    store: Store,
    name: str,
    ids: IdArray,
    progress: bool,
    before: tuple[OpenIndex, IdArray] | None = None,
) -> None:
    """Write the rows with the sorted `ids` to a file, after those that an index has at the given positions."""
    old = before[1] if before else np.zeros(0, np.int64)
    count = len(old)
    total = count + len(ids)
    shapes: dict[str, Any] = {
        "ids": (np.int64, (total,)),
        "rows": (np.float16, (total, store.dim)),
        "scales": (np.float32, (total,)),
    }
    with new_arrays(path, shapes) as arrays, steps(f"{name}s, copy", "rows", total, progress) as done:
        if before:
            arrays["ids"][:count] = before[0].ids[old]
            for start in range(0, count, 2**17):
                end = min(start + 2**17, count)
                arrays["rows"][start:end] = before[0].rows.raw(old[start:end])
                done(end)
            before[0].rows.release()
        arrays["ids"][count:] = ids
        read = count
        for some, values in store.vector_batches(name, after=before[0].entry.last_row_id if before else None):
            arrays["rows"][count + np.searchsorted(ids, some)] = values
            done(read := read + len(some))
        arrays["scales"][:] = unit_scales(torch.from_numpy(arrays["rows"])).numpy()
        store.check_finite(name, arrays["ids"], arrays["scales"])


def held_rows(store: Store, name: str) -> tuple[IdArray, HalfRows]:
    """Sorted ids and all rows of a modality in RAM, two bytes a number."""
    ids = store.vector_ids(name)
    matrix = np.empty((len(ids), store.dim), np.float16)
    for some, values in store.vector_batches(name):
        matrix[np.searchsorted(ids, some)] = values
    return ids, HalfRows(torch.from_numpy(matrix))
