"""What `memory info` tells."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from retroclip.memory.index import KeyIndex
from retroclip.memory.location import Location
from retroclip.memory.manifest import Manifest
from retroclip.memory.store import Store


def described(path: Location, manifest: Manifest, store: Store, entries: dict[str, KeyIndex]) -> dict[str, Any]:
    """Rows, texts, labels, sources, size, model, index and measured recall, as JSON-ready values."""
    labels = Counter(store.column("label").to_pylist())
    unlabelled = labels.pop(None, 0)
    rows = store.count()
    return {
        "path": str(path),
        "rows": rows,
        "with_text": rows - store.column("caption").null_count,
        "with_image": 0 if manifest.creation["images"] == "none" else rows,
        "with_label": rows - unlabelled,
        "labels": len(labels),
        "sources": dict(Counter(store.column("source").to_pylist()).most_common()),
        "rejected": len(store.rejected()),
        "duplicates": manifest.counts.get("duplicates", 0),
        "size_bytes": store.size(),
        "model": manifest.model,
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


def _kind(entries: dict[str, KeyIndex]) -> str:
    """What `Memory.index` takes to build the same again."""
    entry = next(iter(entries.values()), None)
    return "exact" if entry is None else entry.factory if entry.kind == "factory" else entry.kind
