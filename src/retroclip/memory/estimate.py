"""What a creation or an addition will take, told from a sample: rows, time, disk and RAM."""

import shutil
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from retroclip.memory.append import Added, Keeping, ingest
from retroclip.memory.create import source_items
from retroclip.memory.disk import size_on_disk
from retroclip.memory.imports import EmbeddingImport
from retroclip.memory.ingest import SHARD_BYTES, Ingest
from retroclip.memory.location import Location, Url, located
from retroclip.memory.progress import pairs_by_bytes, total_pairs
from retroclip.pairs import EmbeddingFolder, Pair, Part

SAMPLE_PAIRS, SAMPLE_ROWS, WARM_PAIRS = 192, 8192, 16
KEY_BYTES = 150  # what an ingest remembers of each pair: its key


def estimated(
    path: str | Location,
    encoder: Any,
    sources: Any,
    where: str | None,
    options: Ingest,
    keeping: Keeping,
    *,
    pairs: int | None = None,
    adding: bool = False,
) -> dict[str, Any]:
    """Ingest the first pairs of the sources into a temporary memory, and tell what all of them will take.

    pairs: how many there are, where the sources can't be asked. adding: a memory may have some of them. Returns rows,
    whether their number is exact (with `where` and `adding` it is an upper bound), the share of the sample that was
    rejected, seconds, disk_bytes (without an index), free_bytes on the disk of `path` (None on object storage), and
    ram_bytes at the peak.
    """
    place = located(path)
    items = source_items(sources, where, encoder)
    with tempfile.TemporaryDirectory(prefix="retroclip-dry-run-") as name:
        directory = Path(name)
        if isinstance(items, EmbeddingImport):
            rows, exact = items.rows, not where
            sample: Any = _shortened(items)
            mean_bytes = 0.0
        else:
            first = list(islice(items, WARM_PAIRS + SAMPLE_PAIRS))
            sizes = [len(item.image or b"") + 1 for item in first if isinstance(item, Pair)]
            mean_bytes = float(np.mean(sizes)) if sizes else 1.0
            if len(first) < WARM_PAIRS + SAMPLE_PAIRS:
                rows, exact = len(first), True
            else:
                known = total_pairs(sources) if pairs is None else pairs
                rows, exact = known or pairs_by_bytes(sources, mean_bytes), known is not None and not where
            warm = first[:WARM_PAIRS] if len(first) > WARM_PAIRS else []
            if warm:  # the first batch pays for what is loaded and measured once
                _ingested(directory / "warm", encoder, warm, options, keeping)
            sample = first[len(warm) :]
        start = time.perf_counter()
        added = _ingested(directory / "sample", encoder, sample, options, keeping)
        seconds = time.perf_counter() - start
        stored = size_on_disk(directory / "sample")
    read = max(added.read, 1)
    held = min(SHARD_BYTES, int(options.shard_pairs * mean_bytes))
    return {
        "rows": rows,
        "rows_exact": exact and not adding,
        "rejected_share": round(added.rejected / read, 4),
        "seconds": round(rows * seconds / read, 2),
        "disk_bytes": int(rows * stored / read),
        "free_bytes": None if isinstance(place, Url) else shutil.disk_usage(_existing(place)).free,
        "ram_bytes": psutil.Process().memory_info().rss + 2 * held + rows * KEY_BYTES,
    }


def _ingested(directory: Path, encoder: Any, items: Any, options: Ingest, keeping: Keeping) -> Added:
    directory.mkdir()
    return ingest(
        directory,
        encoder,
        items,
        replace(options, on_batch=None),
        keeping=replace(keeping, max_rejected=1.0),
        resume=True,
    )


def _shortened(items: EmbeddingImport) -> EmbeddingImport:
    """The first rows of the first part."""
    folder = items.folders[0]
    part = folder.parts[0]
    short = Part(part.number, min(part.rows, SAMPLE_ROWS), part.images, part.texts, part.metadata)
    return EmbeddingImport([EmbeddingFolder(folder.path, folder.dim, (short,))], items.where)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
