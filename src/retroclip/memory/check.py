"""What `memory verify` looks for."""

from collections import Counter

import numpy as np
import pyarrow.compute as pc

from retroclip.errors import MemoryStoreError
from retroclip.memory.index import IndexFolder
from retroclip.memory.location import Location
from retroclip.memory.schema import pair_schema
from retroclip.memory.store import Store

NORM_TOLERANCE = 2e-3  # float16 rounding of a unit vector


def find_problems(path: Location, store: Store, indexes: IndexFolder) -> list[str]:
    """Problems of a memory, one line each: unreadable tables, wrong columns, spoilt embeddings, duplicates, indexes."""
    problems = store.problems()
    if problems:
        return problems
    if not store.schema.equals(pair_schema(store.dim)):
        return [f"{path}: the columns of the table are not those of this format"]
    keys = Counter(store.column("key").to_pylist())
    repeated = [key for key, count in keys.items() if count > 1]
    if repeated:
        problems.append(f"{path}: {len(repeated)} keys occur more than once, such as {repeated[0]!r}")
    for of in ("image", "text"):
        problems += _vector_problems(store, of)
    try:
        problems += [problem for entry in indexes.entries().values() if (problem := indexes.problem(entry))]
    except MemoryStoreError as error:
        problems.append(str(error))
    return problems


def _vector_problems(store: Store, of: str) -> list[str]:
    column = store.column(f"{of}_embedding")
    problems = []
    if of == "image" and column.null_count:
        problems.append(f"{column.null_count} rows have no image embedding")
    bad = 0
    for chunk in column.chunks:
        values = pc.drop_null(chunk).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        norms = np.linalg.norm(values.reshape(-1, store.dim), axis=1)
        bad += int((~(np.abs(norms - 1) < NORM_TOLERANCE)).sum())  # NaN is not near 1 either
    if bad:
        problems.append(f"{bad} {of} embeddings are not of unit length: delete those rows and add them again")
    return problems
