"""Migration to another encoder, and what a dry run tells."""

import shutil

import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory import Blocklist, Memory
from retroclip.memory.append import Keeping
from retroclip.memory.estimate import estimated
from retroclip.memory.ingest import Ingest
from retroclip.memory.migrate import exchange
from retroclip.pairs import Pair


@pytest.fixture
def other(stub):
    return stub.StubEncoder(dim=8, seed=3, name="other")


@pytest.fixture
def memory(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs, shard_pairs=16)
    memory.delete("key IN ('p003', 'p050')")
    return memory


def test_a_migrated_memory_is_one_made_by_the_new_encoder(tmp_path, memory, pairs, other):
    old = memory.migrate(other)
    left = [pair for pair in pairs if pair.key not in ("p003", "p050")]
    expected = Memory.create(tmp_path / "expected", other, left, shard_pairs=16)
    assert memory.take(memory.ids()).equals(expected.take(expected.ids()))
    for of in ("image", "text"):
        assert memory.embeddings(of=of).equal(expected.embeddings(of=of))
    assert (memory.dim, memory.model, memory.verify()) == (8, "other", [])
    assert Memory.open(memory.path).fingerprint == other.fingerprint
    assert old == tmp_path / "m.old"
    assert Memory.open(old).model == "stub"
    with pytest.raises(MemoryStoreError, match=r"m.old is there"):
        memory.migrate(other)
    with pytest.raises(MemoryStoreError, match=r"m.old holds the rows, too"):
        memory.purge("key = 'p001'")


def test_a_killed_migration_goes_on_while_the_old_memory_answers(tmp_path, memory, other):
    def stop(read, rejected):
        if read >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.migrate(other, batch_size=8, on_batch=stop)
    assert len(Memory.open(memory.path)) == 58
    assert memory.search(memory.embeddings()[:1], k=1).ids[0, 0] == 0
    told = []
    memory.migrate(other, batch_size=8, on_batch=lambda read, rejected: told.append(read))
    assert len(memory) == 58
    assert memory.model == "other"


def test_a_change_in_between_is_told(memory, other):
    def stop(read, rejected):
        if read >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.migrate(other, batch_size=8, on_batch=stop)
    memory.delete("key = 'p010'")
    with pytest.raises(MemoryStoreError, match="another sources"):
        memory.migrate(other)


def test_a_change_before_the_exchange_is_told(memory, encoder, other, pairs, stub):
    reader = Memory.open(memory.path)
    for _ in range(2):  # nothing is encoded again
        with pytest.raises(MemoryStoreError, match=r"m.migrated is ready"):
            memory.migrate(other)
    memory.add([Pair("late", stub.photo(77))], encoder)
    del reader
    with pytest.raises(MemoryStoreError, match=r"m.migrated was made of .* before that was changed: delete it"):
        memory.migrate(other)
    shutil.rmtree(memory.path.with_name("m.migrated"))
    memory.migrate(other)
    assert "late" in memory.take(memory.ids(), ["key"])["key"].to_pylist()


def test_killed_after_the_exchange(tmp_path, memory, encoder, other, pairs):
    new = Memory.create(tmp_path / "m.migrated", other, pairs)
    path = memory.path
    del memory, new
    exchange(path, tmp_path / "m.migrated")
    again = Memory.open(path)
    assert again.model == "other"
    assert again.migrate(other) == tmp_path / "m.old"
    assert Memory.open(tmp_path / "m.old").model == "stub"


def test_what_stands_in_the_way(tmp_path, memory, encoder, other, pairs):
    with pytest.raises(MemoryStoreError, match="made by stub already"):
        memory.migrate(encoder)
    reader = Memory.open(memory.path)
    with pytest.raises(MemoryStoreError, match="is open elsewhere"):
        memory.migrate(other)
    del reader
    memory.migrate(other)
    bare = Memory.create(tmp_path / "bare", encoder, pairs, images="none")
    with pytest.raises(MemoryStoreError, match="keeps no image of 60 pairs"):
        bare.migrate(other)


def test_a_dry_run_counts_rows_and_leaves_nothing(tmp_path, encoder, pairs, stub, monkeypatch):
    for i in range(300):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{i:03}.png").write_bytes(stub.photo(i) if i % 20 else b"broken")
    told = estimated(tmp_path / "m", encoder, tmp_path / "photos", None, Ingest(), Keeping())
    assert (told["rows"], told["rows_exact"]) == (300, True)
    assert 0.03 < told["rejected_share"] < 0.07
    assert 300 * 64 < told["disk_bytes"] < 300 * 4000
    assert told["seconds"] > 0
    assert told["ram_bytes"] > 10**7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    memory = Memory.create(tmp_path / "m", encoder, tmp_path / "photos")
    memory.export(tmp_path / "out", "webdataset")
    told = estimated(tmp_path / "n", encoder, tmp_path / "out" / "00000.tar", None, Ingest(), Keeping())
    assert not told["rows_exact"]
    assert 100 < told["rows"] < 600
    memory.export(tmp_path / "embeddings", "clip-retrieval")
    told = estimated(tmp_path / "n", encoder, tmp_path / "embeddings", None, Ingest(), Keeping())
    assert (told["rows"], told["rows_exact"]) == (285, True)
    monkeypatch.setattr("retroclip.memory.estimate.SAMPLE_ROWS", 100)  # of a part that is larger, like every real one
    told = estimated(tmp_path / "n", encoder, tmp_path / "embeddings", None, Ingest(), Keeping())
    assert (told["rows"], told["rows_exact"]) == (285, True)
    assert 285 * 64 < told["disk_bytes"] < 285 * 4000


def test_the_blocklist_moves_along(memory, other, pairs):
    memory.block(Blocklist({"key": frozenset(["p001", "p003"])}))
    memory.migrate(other)
    assert Blocklist.of(memory.path) == Blocklist({"key": frozenset(["p001", "p003"])})
    assert len(memory) == 58  # what was there stays
    added = memory.add(pairs, other)
    assert (added.rows, added.rejected) == (1, 2)
