"""Compaction keeps rows and ids; a purge leaves no byte of what it removed in any file."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from pyarrow.parquet import ParquetFile

from retroclip.errors import MemoryStoreError
from retroclip.memory import Memory, tables
from retroclip.pairs import Pair


@pytest.fixture
def memory(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs[:30])
    memory.add(pairs[30:], encoder)
    return memory


def files_holding(path, needle):
    return [file for file in path.rglob("*") if file.is_file() and needle in file.read_bytes()]


def test_compact_keeps_rows_and_ids_and_frees_bytes(tmp_path, memory, pairs):
    memory.index("flat")
    memory.delete("label = 'odd'")
    ids, rows = memory.ids(), memory.take(memory.ids()).to_pylist()
    found = memory.search(memory.embeddings(), k=5)
    told = memory.compact()
    assert (told["files_before"], told["files"]) == (2, 1)
    assert told["bytes"] < told["bytes_before"]
    assert np.array_equal(memory.ids(), ids)
    assert memory.take(ids).to_pylist() == rows
    again = memory.search(memory.embeddings(), k=5)
    assert np.array_equal(found.ids, again.ids)
    assert memory.verify() == []
    assert files_holding(tmp_path / "m", pairs[1].image) == []


def test_large_images_are_handled_few_at_a_time(tmp_path, memory, monkeypatch):
    """Of 3,000 rows with images of 600 kB a purge held 5.5 GB."""
    sizes = []
    optimizer = type(memory._store._dataset.optimize)
    whole = optimizer.compact_files
    monkeypatch.setattr(optimizer, "compact_files", lambda *a, **k: sizes.append(k["batch_size"]) or whole(*a, **k))
    memory.compact()
    assert sizes[0] == tables.MOST_ROWS
    monkeypatch.setattr(tables, "READ_BYTES", memory.info()["size_bytes"] // 10)
    assert 1 <= memory._store.rows_at_a_time() <= 15
    rows = memory.take(memory.ids()).to_pylist()
    memory.purge("key = 'p000'")
    assert sizes[2] <= 15
    assert memory.take(memory.ids()).to_pylist() == rows[1:]
    assert memory.verify() == []
    memory.export(tmp_path / "out", "parquet")
    assert ParquetFile(tmp_path / "out" / "pairs-0.parquet").metadata.row_group(0).num_rows <= 15


def test_few_large_images_among_many_small_rows_count(memory, encoder, pairs, stub, monkeypatch):
    """By the mean of all rows, photos after millions of embeddings were read by thousands."""
    monkeypatch.setattr(tables, "READ_BYTES", 2**20)
    small, noise = memory._store.rows_at_a_time(), np.random.default_rng(0).bytes(200_000)
    memory.add([replace(pairs[0], key=f"large {i}", image=stub.photo(i) + noise) for i in range(3)], encoder)
    assert memory._store.rows_at_a_time() < 10 < small


def test_compact_keeps_what_another_reader_reads(memory):
    reader = Memory.open(memory.path)
    rows = reader.take(reader.ids()).to_pylist()
    memory.delete("label = 'odd'")
    memory.compact()
    assert reader.take(reader.ids()).to_pylist() == rows
    reader.refresh()
    assert len(reader) == len(memory)


def test_purge_leaves_no_byte(tmp_path, encoder, memory, pairs, stub):
    gone, kept = pairs[7], pairs[8]
    bad = Pair("private-name", b"not an image", source="secret")
    memory.add([bad], encoder, max_rejected=1)
    memory.delete("key = 'p009'")
    memory.add([Pair("p007", stub.photo(77), ("new words",))], encoder, known="replace")
    memory.index("flat")
    wanted = memory._store.take(memory.matching("key = 'p008'"), ["image_embedding"])["image_embedding"]
    vector = memory.embeddings(memory.matching("key = 'p050'"))[0].numpy()
    image = np.asarray(wanted[0].as_py(), np.float16).tobytes()
    path = tmp_path / "m"
    assert files_holding(path, gone.image)  # the replaced row is still in an old version
    assert files_holding(path, image)
    assert files_holding(path, vector.tobytes())  # in the index
    assert files_holding(path, b"private-name")
    assert memory.purge("key IN ('p050', 'p008', 'private-name') OR source = 'secret'") == 2
    needles = [gone.image, kept.image, pairs[9].image, pairs[50].image, image, vector.tobytes(), b"private-name"]
    for needle in needles:
        assert files_holding(path, needle) == []
    assert files_holding(path, b"p050") == files_holding(path, b"p008") == []
    assert memory.info()["index"]["kind"] == "flat"
    assert (len(memory), memory.rejected(), memory.verify()) == (57, [], [])


def test_purge_by_columns_that_rejected_rows_lack(encoder, memory):
    memory.add([Pair("odd-one", b"no image")], encoder, max_rejected=1)
    assert memory.purge("label = 'odd'") > 0
    assert [item.key for item in memory.rejected()] == ["odd-one"]


def test_a_purge_by_metadata_ends_what_a_killed_one_began(tmp_path, encoder, memory, stub):
    memory.add([Pair("odd-one", stub.photo(99), metadata={"withdrawn": True})], encoder)
    assert memory.delete("withdrawn IS NOT NULL") == 1  # as far as the first one came
    assert files_holding(tmp_path / "m", stub.photo(99))
    with pytest.raises(MemoryStoreError, match="No field named withdrawn"):
        memory.purge("withdrawn IS NOT NULL")
    assert files_holding(tmp_path / "m", stub.photo(99)) == []


def test_purge_is_exclusive(memory):
    reader = Memory.open(memory.path)
    with pytest.raises(MemoryStoreError, match="is open elsewhere"):
        memory.purge("key = 'p001'")
    assert len(memory) == 60
    other = copy.deepcopy(memory._reading)
    del reader
    with pytest.raises(MemoryStoreError, match="is open elsewhere"):
        memory.purge("key = 'p001'")
    del other
    assert memory.purge("key = 'p001'") == 1
    with memory._reading.alone() as alone, pytest.raises(MemoryStoreError, match="being purged"):
        assert alone
        Memory.open(memory.path)


def test_a_bad_predicate_purges_nothing(memory):
    memory.index("flat")
    for where in ("key ==", "key = 'a'; DROP TABLE x", "nosuch = 1"):
        with pytest.raises(MemoryStoreError, match="predicate"):
            memory.purge(where)
    assert (len(memory), memory.info()["index"]["kind"]) == (60, "flat")


@pytest.mark.parametrize("keep", [0.5, 0.01])
def test_a_truncated_fragment_is_one_line_for_everything(tmp_path, encoder, memory, pairs, keep):
    file = max((memory.path / "pairs.lance" / "data").glob("*"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])
    (problem,) = Memory.open(memory.path).verify()
    assert ".rs" not in problem
    uses = (
        lambda own: own.info(),
        lambda own: own.search(np.ones((1, 16))),
        lambda own: own.search(np.ones((1, 16)), where="label = 'odd'"),
        lambda own: own.take([0, 59]),
        lambda own: own.delete("key = 'p001'"),
        lambda own: own.add(pairs, encoder),
        lambda own: own.compact(),
        lambda own: own.export(tmp_path / "out", "parquet"),
    )
    for use in uses:
        with pytest.raises(MemoryStoreError, match=r"can't be read \(.*restore it from a copy") as caught:
            use(Memory.open(memory.path))
        assert ".rs" not in str(caught.value)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    assert Memory.open(memory.path).verify() == []
    assert len(Memory.open(memory.path)) == 60
