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


def spoilt(content, how):
    """The bytes of a file after some damage; `gone` is none."""
    keys = content.index(b"p000p001")  # their offsets come before them
    half = len(content) // 2
    return {
        "gone": None,
        "half": content[:half],
        "start": content[: len(content) // 100],
        "empty": b"",
        "one byte of keys": content[: keys - 2] + bytes([content[keys - 2] ^ 0xFF]) + content[keys - 1 :],
        "head kept": content[:40] + bytes(byte ^ 0xFF for byte in content[40:]),
    }[how]


@pytest.mark.parametrize("how", ["gone", "half", "start", "empty", "one byte of keys", "head kept"])
def test_a_damaged_fragment_is_one_line_for_everything(tmp_path, encoder, memory, pairs, how):
    (file,) = files_holding(memory.path / "pairs.lance" / "data", b"p000p001")
    whole = file.read_bytes()
    damaged = spoilt(whole, how)
    file.unlink() if damaged is None else file.write_bytes(damaged)
    (problem,) = Memory.open(memory.path).verify()
    assert ".rs" not in problem
    uses = [
        lambda own: own.take([0, 59]),
        lambda own: own.delete("key = 'zzz'"),
        lambda own: own.delete("n > 70 OR key = 'zzz'"),
        lambda own: own.add(pairs, encoder),
        lambda own: own.add([replace(pairs[1], captions=("new",))], encoder, known="replace"),
        lambda own: own.compact(),
        lambda own: own.export(tmp_path / "out", "parquet"),
    ]
    if how != "one byte of keys":
        uses += [
            lambda own: own.info(),
            lambda own: own.search(np.ones((1, 16))),
            lambda own: own.search(np.ones((1, 16)), where="label = 'odd'"),
        ]
    for use in uses:
        with pytest.raises(MemoryStoreError, match=r"can't be read \(.*restore it from a copy") as caught:
            use(Memory.open(memory.path))
        assert ".rs" not in str(caught.value)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    assert Memory.open(memory.path).verify() == []
    assert len(Memory.open(memory.path)) == 60


def test_damaged_rejected_rows_are_one_line(encoder, memory):
    memory.add([Pair("odd-one", b"no image")], encoder, max_rejected=1)
    kind = memory.index("flat")["kind"]
    (file,) = (memory.path / "rejected.lance" / "data").glob("*")
    file.unlink()
    for use in (lambda own: own.rejected(), lambda own: own.purge("key = 'p001'")):
        with pytest.raises(MemoryStoreError, match=r"can't be read \(.*Not found: .*restore it from a copy"):
            use(memory)
    entries = memory._indexes.entries()
    assert {entry.kind for entry in entries.values()} == {kind}


def test_damaged_deletions_are_one_line(memory):
    memory.delete("label = 'odd'")
    for file in (memory.path / "pairs.lance" / "_deletions").glob("*"):
        file.write_bytes(bytes(byte ^ 0xFF for byte in file.read_bytes()))
    for use in (
        lambda own: own.info(),
        lambda own: own.delete("key = 'zzz'"),
        lambda own: own.search(np.ones((1, 16))),
    ):
        with pytest.raises(MemoryStoreError, match=r"can't be read \(.*restore it from a copy"):
            use(Memory.open(memory.path))


def test_a_damaged_version_is_one_line(memory):
    for file in (memory.path / "pairs.lance" / "_versions").glob("*.manifest"):
        file.write_bytes(file.read_bytes().replace(b"fixed_size_list", b"fixed_size_-ist"))
    with pytest.raises(MemoryStoreError, match=r"pairs\.lance can't be read .* restore it or create"):
        Memory.open(memory.path)


def test_a_panic_is_told_as_damage(memory, monkeypatch):
    """What Lance's Rust gives up with is a BaseException: it had passed everything up to a traceback."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def broken(*_, **__):
        raise panic("the offset + length of the sliced Buffer cannot exceed the existing length")

    monkeypatch.setattr(type(memory._store._dataset), "_take_rows", broken)
    with pytest.raises(MemoryStoreError, match=r"can't be read \(Lance panicked: the offset .*restore it"):
        memory.take([0])
    monkeypatch.setattr(type(memory._store._dataset), "to_batches", broken)
    assert all("Lance panicked" in problem for problem in memory.verify())
    with pytest.raises(KeyboardInterrupt), tables.damage_told(memory.path):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)"), False),
        (
            ValueError("Invalid user input: Schema error: No field named n, /x/rust/lance-datafusion/src/a.rs:7:5"),
            False,
        ),
        (ValueError("Error resolving filter expression key = 'Not found: ' (Encountered corrupt file )"), False),
        (RuntimeError("a commit conflict: retry"), False),
        (OSError("External error: Wrapped error: Not found: data/x.lance, /x/rust/lance-io/src/local.rs:2:4"), True),
        (ValueError("External error: Invalid user input: no column, /x/rust/lance-file/src/reader.rs:7:2"), True),
    ],
)
def test_only_what_lance_says_of_files_is_damage(tmp_path, error, told):
    with pytest.raises(MemoryStoreError if told else type(error)), tables.damage_told(tmp_path):
        raise error
