"""What `memory info` tells."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from retroclip.memory.index import KeyIndex
from retroclip.memory.location import Location
from retroclip.memory.manifest import Manifest
from retroclip.memory.store import Store

SAMPLED, AT_A_TIME = 500, 20
"""Rows of which images are read: to count those of all rows, the store would read every byte of them. And how many of
them are held: 500 photos as a camera leaves them would be gigabytes."""

COUNTED = 1_000_000  # rows of which all text embeddings are looked at: of more they are estimated as images are
LISTED = 100  # sources; a table may name another one in each row


def described(path: Location, manifest: Manifest, store: Store, entries: dict[str, KeyIndex]) -> dict[str, Any]:
    """Rows, texts, labels, sources, size, model, index and measured recall, as JSON-ready values.

    `with_text`: rows that can be found by text, `with_caption` those that have one; an import may lack either.
    `with_image` is estimated from `SAMPLED` evenly spread rows where there are more: exact where all or none keep one.
    """
    labels, sources, rows = _counted(store, "label"), _counted(store, "source"), store.count()
    unlabelled = labels.pop(None, 0)
    listed = dict(list(sources.items())[:LISTED])
    if others := sources.keys() - listed.keys():
        listed[f"({len(others):,} others)"] = sum(sources[name] for name in others)
    return {
        "path": str(path),
        "rows": rows,
        "with_text": store.count("text_embedding IS NOT NULL") if rows <= COUNTED else _kept(store, "text_embedding"),
        "with_caption": store.count("caption IS NOT NULL"),
        "with_image": _kept(store, "image"),
        "with_label": rows - unlabelled,
        "labels": len(labels),
        "sources": listed,
        "rejected": len(store.rejected()),
        "duplicates": manifest.counts.get("duplicates", 0),
        "size_bytes": store.size(),
        "model": manifest.model,
        "model_reference": manifest.model_reference,
        "fingerprint": manifest.fingerprint,
        "dim": manifest.dim,
        "embedding_type": manifest.embedding_type,
        "version": store.version,
        "created": manifest.created,
        "creation": manifest.creation,
        "index": {
            "kind": kind_of(entries),
            "keys": {name: asdict(entry) for name, entry in entries.items()},
            "recall": {name: entry.recall for name, entry in entries.items()},
        },
    }


def _counted(store: Store, column: str) -> dict[str | None, int]:
    """How many rows have each value of a column, the most frequent first."""
    counts = pc.value_counts(store.column(column)).to_pylist()
    return {item["values"]: item["counts"] for item in sorted(counts, key=lambda item: -item["counts"])}


def _kept(store: Store, column: str) -> int:
    """How many rows have an image, or an embedding, whatever the creation says: `add` and imports may keep none."""
    ids = store.ids()
    spread = ids[np.linspace(0, len(ids) - 1, min(len(ids), SAMPLED)).round().astype(int)]
    parts = (spread[start : start + AT_A_TIME] for start in range(0, len(spread), AT_A_TIME))
    kept = len(spread) - sum(store.take(part, [column])[column].null_count for part in parts)
    return round(len(ids) * kept / max(len(spread), 1))


def kind_of(entries: dict[str, KeyIndex]) -> str:
    """What `Memory.index` takes to build the same again."""
    entry = next(iter(entries.values()), None)
    return "exact" if entry is None else entry.factory if entry.kind == "factory" else entry.kind
