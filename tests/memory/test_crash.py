"""Killed at any moment, a memory is whole, and the run that is repeated ends as an undisturbed one."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory import Memory
from retroclip.memory.check import find_problems
from retroclip.memory.index import IndexFolder
from retroclip.memory.store import Store
from retroclip.pairs import Pair

HERE = Path(__file__).parent
MOMENTS = {
    "write": [1, 7, 13, 19, 25, 31, 34],
    "commit": [2, 3, 8, 13, 18, 23, 28, 32],
    "rename": [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    "index": [1, 2, 3, 4],
    "compact": [1, 2, 3, 4, 5, 6, 7, 8],
}
FEW = ["write:12", "commit:17", "rename:8", "compact:3"]


@pytest.fixture(scope="module")
def crashing():
    spec = importlib.util.spec_from_file_location("crashing", HERE / "crashing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(memory):
    """Hashes of all rows by key, the rejected rows, and what searches find, by key."""
    ids = memory.ids()
    rows = memory.take(ids).to_pylist()
    vectors = [memory.embeddings(of=of).numpy() for of in ("image", "text")]
    hashes = {
        row["key"]: hashlib.sha256(repr(row).encode() + b"".join(v[i].tobytes() for v in vectors)).hexdigest()
        for i, row in enumerate(rows)
    }
    keys = dict(zip(ids.tolist(), (row["key"] for row in rows), strict=True))
    queries = np.random.default_rng(0).standard_normal((20, memory.dim))
    found = {
        by: [[keys[i] for i in row] for row in memory.search(queries, by=by, k=5).ids.tolist()]
        for by in ("image", "text")
    }
    return hashes, sorted(item.key for item in memory.rejected()), found


def assert_recovers(folder, moments, crashing, encoder, stub):
    source = str(Path(importlib.util.find_spec("retroclip").origin).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "crashing.py"), str(HERE / "stub.py"), str(folder), *moments]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert json.loads(told.stdout) == dict.fromkeys(moments, -9)
    undisturbed = contents(crashing.run(folder / "undisturbed", encoder, stub))
    assert len(undisturbed[0]) == 48
    for moment in moments:
        path = folder / moment.replace(":", "-")
        partial = path.with_name(path.name + ".partial")
        if path.exists():
            assert Memory.open(path).verify() == [], moment
        elif len({file.parent for file in partial.glob("*/_versions/*.manifest")}) == 2:
            assert find_problems(partial, Store(partial, encoder.dim), IndexFolder(partial)) == [], moment
        memory = crashing.run(path, encoder, stub)
        assert memory.verify() == [], moment
        assert contents(memory) == undisturbed, moment


def test_killed_at_some_moments(tmp_path, crashing, encoder, stub):
    assert_recovers(tmp_path, FEW, crashing, encoder, stub)


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path, crashing, encoder, stub):
    moments = [f"{point}:{count}" for point, counts in MOMENTS.items() for count in counts]
    assert_recovers(tmp_path, moments, crashing, encoder, stub)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def enlarge(place):
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)


@pytest.mark.parametrize("step", ["create", "add", "index", "compact"])
def test_a_disk_that_fills(small_disk, encoder, stub, step):
    pad = {"pad": "".join(map(chr, np.random.default_rng(0).integers(65, 90, 20_000)))}
    pairs = [Pair(f"p{i:03}", stub.photo(i), (f"photo {i}",), metadata=pad | {"n": i}) for i in range(80)]
    path, first = small_disk / "m", 80 if step == "create" else 20
    filler = small_disk / "filler"

    def fill():
        free = os.statvfs(small_disk).f_bavail * 4096
        filler.write_bytes(b"x" * max(0, free - (150_000 if step == "add" else 4096)))

    steps = {
        "create": lambda: Memory.create(path, encoder, pairs[:first], shard_pairs=16),
        "add": lambda: Memory.open(path).add(pairs, encoder),
        "index": lambda: Memory.open(path).index("hnsw"),
        "compact": lambda: Memory.open(path).compact(),
    }
    if step != "create":
        steps["create"]()
        fill()
    with pytest.raises(MemoryStoreError, match=r"is full: free some space"):
        steps[step]()
    enlarge(small_disk)
    if step != "create":
        assert Memory.open(path).verify() == []
        assert len(Memory.open(path)) == 20
    steps[step]()
    memory = Memory.open(path)
    assert memory.verify() == []
    assert len(memory) == (80 if step in ("create", "add") else 20)
    assert memory.take(memory.ids(), ["key"])["key"].to_pylist() == [pair.key for pair in pairs[: len(memory)]]
