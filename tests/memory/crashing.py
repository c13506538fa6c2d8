"""Runs create, add, delete, index and compact in forked processes that kill themselves at given moments.

    python crashing.py STUB FOLDER MOMENT...

A moment is POINT:COUNT, or `none`, which leaves in FOLDER/passed.json how often each point is passed.

A point is passed inside of writing rows (before each batch), of a commit (before and after the manifest is put), of
storing an index (around every rename) and of compacting. Each process works in FOLDER/MOMENT.
"""

import importlib.util
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import lance
import pyarrow as pa
from lance.dataset import DatasetOptimizer

from retroclip.memory import Memory, build
from retroclip.memory.store import Store

STEPS_BATCH = 5


def load_stub(path):
    spec = importlib.util.spec_from_file_location("memory_stub", path)
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    return stub


def run(memory_path, encoder, stub):
    """The whole run; also what repeats it."""
    from retroclip.pairs import Pair

    def pairs(first, last):
        made = [Pair(f"p{i:03}", stub.photo(i), (f"photo {i}",), ("even", "odd")[i % 2]) for i in range(first, last)]
        return [*made, Pair(f"bad{first}", b"no image", source="bad")]

    if not Path(memory_path).exists():
        Memory.create(memory_path, encoder, pairs(0, 40), batch_size=8, shard_pairs=16)
    memory = Memory.open(memory_path)
    memory.add(pairs(40, 70), encoder, batch_size=8)
    memory.add(pairs(60, 75), encoder, batch_size=8, known="replace")
    memory.delete("label = 'odd' AND key > 'p020'")
    memory.index("hnsw")
    memory.compact()
    return memory


class Moments:
    """Counts the points that are passed, and kills the process at one of them."""

    def __init__(self, wanted):
        self.name, _, count = wanted.partition(":")
        self.count = int(count or 0)
        self.passed = Counter()

    def __call__(self, name):
        self.passed[name] += 1
        if name == self.name and self.passed[name] == self.count:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name, function):
        def wrapped(*arguments, **options):
            self(name)
            result = function(*arguments, **options)
            self(name)
            return result

        return wrapped

    def commit_lock(self, version):
        return Passing(self)

    def install(self):
        write, dataset, fragments = lance.write_dataset, lance.dataset, sys.modules[Store.__module__].write_fragments

        def batches(table):
            for batch in table.to_batches(max_chunksize=STEPS_BATCH):
                self("write")
                yield batch
            self("write")

        def reader(table):
            return pa.RecordBatchReader.from_batches(table.schema, batches(table))

        lance.write_dataset = lambda table, *a, **o: write(reader(table), *a, commit_lock=self.commit_lock, **o)
        lance.dataset = lambda *a, **o: dataset(*a, commit_lock=self.commit_lock, **o)
        sys.modules[Store.__module__].write_fragments = lambda table, *a, **o: fragments(reader(table), *a, **o)
        commit = lance.LanceDataset.commit
        lance.LanceDataset.commit = lambda *a, **o: commit(*a, commit_lock=self.commit_lock, **o)
        Path.replace = self.around("rename", Path.replace)
        Path.rename = self.around("rename", Path.rename)
        build.faiss.write_index = self.around("index", build.faiss.write_index)
        DatasetOptimizer.compact_files = self.around("compact", DatasetOptimizer.compact_files)
        lance.LanceDataset.cleanup_old_versions = self.around("compact", lance.LanceDataset.cleanup_old_versions)


class Passing:
    def __init__(self, moments):
        self.moments = moments

    def __enter__(self):
        self.moments("commit")

    def __exit__(self, *error):
        self.moments("commit")


def main(stub_path, folder, *wanted):
    stub = load_stub(stub_path)
    outcomes = {}
    for moment in wanted:
        # Nothing of Lance has run yet in this process, so that its threads are not missing in the forked one.
        child = os.fork()
        if child == 0:
            status = 1
            try:
                moments = Moments(moment)
                moments.install()
                run(Path(folder) / moment.replace(":", "-"), stub.StubEncoder(), stub)
                (Path(folder) / "passed.json").write_text(json.dumps(moments.passed))
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        outcomes[moment] = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
