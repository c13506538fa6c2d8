"""Rows a second, and peak memory, of importing embeddings in clip-retrieval's layout: make bench-memory

Makes folders of 250,000, 1,000,000 and 2,000,000 rows (random unit vectors of 512 dimensions in fp16 for images and for
texts, and metadata with LAION's columns: the values do not matter here, the bytes do), imports each in a process of its
own, and prints rate and peak resident memory. Beside it stands a plain copy of the same files: what the disk allows.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from record import store

ROWS, DIM, PART = (250_000, 1_000_000, 2_000_000), 512, 250_000
WORDS = ("photo", "red", "bus", "street", "old", "house", "water", "dog", "runs", "green", "grass", "of", "a")


class Named:
    """Stands for the model that made the embeddings: an import needs no more of it than this."""

    name, fingerprint, dim = "the model of the embeddings", "0" * 64, DIM


def make_part(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    for name in ("img_emb", "text_emb"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rows = rng.standard_normal((PART, DIM), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(folder / name / f"{name}_{number}.npy", rows.astype(np.float16))
    keys = [f"{number:05d}{row:07d}" for row in range(PART)]
    picked = rng.integers(0, len(WORDS), (PART, 9))
    table = pa.table({
        "image_path": keys,
        "caption": [" ".join(WORDS[word] for word in words) for words in picked.tolist()],
        "NSFW": ["UNLIKELY"] * PART,
        "similarity": rng.uniform(0.3, 0.4, PART),
        "LICENSE": ["?"] * PART,
        "url": [f"https://images.example.com/{key}/photo-of-the-day.jpg" for key in keys],
        "key": keys,
        "original_width": rng.integers(200, 2000, PART),
        "original_height": rng.integers(200, 2000, PART),
    })  # fmt: skip
    (folder / "metadata").mkdir(exist_ok=True)
    pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def imported(folder: str, memory: str) -> None:
    """In a process of its own: import, print rows, seconds and peak memory."""
    from retroclip import Memory

    start, used = time.perf_counter(), time.process_time()
    made = Memory.create(memory, Named(), [folder], check=False, index=False)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(made.count(), seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    measured = []
    with tempfile.TemporaryDirectory(prefix="bench-import-") as name:
        root = Path(name)
        for rows in ROWS:
            for number in range(rows // PART):
                make_part(root / "embeddings", number)
            start = time.perf_counter()
            shutil.copytree(root / "embeddings", root / "copy")
            copying = time.perf_counter() - start
            shutil.rmtree(root / "copy")
            command = [sys.executable, __file__, str(root / "embeddings"), str(root / "memory")]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            count, (seconds, used, peak) = int(told[0]), map(float, told[1:])
            size = sum(path.stat().st_size for path in (root / "memory").rglob("*") if path.is_file())
            shutil.rmtree(root / "memory")
            measured.append({
                "rows": count, "dim": DIM, "rows_per_second": count / seconds, "rows_per_cpu_second": count / used,
                "peak_gb": peak, "bytes_per_row": size / count, "copied_rows_per_second": rows / copying,
            })  # fmt: skip
            print(
                f"{count:,} rows of {DIM} dimensions, image and text: {count / seconds:,.0f} rows/s, "
                f"{count / used:,.0f} a second of processor time, peak {peak:.2f} GB; "
                f"copying the files: {rows / copying:,.0f} rows/s",
                flush=True,
            )
    store("import", {**measured[-1], "all": measured})


if __name__ == "__main__":
    if len(sys.argv) == 3:
        imported(*sys.argv[1:])
    else:
        main()
