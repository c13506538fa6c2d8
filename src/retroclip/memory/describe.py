"""What `memory info` tells."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from retroclip.memory.index import KeyIndex
from retroclip.memory.location import Location
from retroclip.memory.manifest import Manifest
from retroclip.memory.store import Store

SAMPLED, AT_A_TIME = 500, 20
"""Rows of which images are read: to count those of all rows, the store would read every byte of them. And how many of
them are held: 500 photos as a camera leaves them would be gigabytes."""


def described(path: Location, manifest: Manifest, store: Store, entries: dict[str, KeyIndex]) -> dict[str, Any]:
    """Rows, texts, labels, sources, size, model, index and measured recall, as JSON-ready values.

    `with_image` is estimated from `SAMPLED` evenly spread rows where there are more: exact where all or none keep one.
    """
    labels = Counter(store.column("label").to_pylist())
    unlabelled = labels.pop(None, 0)
    rows = store.count()
    return {
        "path": str(path),
        "rows": rows,
        "with_text": rows - store.column("caption").null_count,
        "with_image": _with_image(store),
        "with_label": rows - unlabelled,
        "labels": len(labels),
        "sources": dict(Counter(store.column("source").to_pylist()).most_common()),
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
            "kind": _kind(entries),
            "keys": {name: asdict(entry) for name, entry in entries.items()},
            "recall": {name: entry.recall for name, entry in entries.items()},
        },
    }


def _with_image(store: Store) -> int:
    """How many rows keep an image, whatever the memory was created with: `add` and imports may keep others or none."""
    ids = store.ids()
    spread = ids[np.linspace(0, len(ids) - 1, min(len(ids), SAMPLED)).round().astype(int)]
    parts = (spread[start : start + AT_A_TIME] for start in range(0, len(spread), AT_A_TIME))
    kept = len(spread) - sum(store.take(part, ["image"])["image"].null_count for part in parts)
    return round(len(ids) * kept / max(len(spread), 1))


def _kind(entries: dict[str, KeyIndex]) -> str:
    """What `Memory.index` takes to build the same again."""
    entry = next(iter(entries.values()), None)
    return "exact" if entry is None else entry.factory if entry.kind == "factory" else entry.kind
