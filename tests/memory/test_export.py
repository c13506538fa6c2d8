"""A round trip through other tools' formats changes nothing."""

import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory import Memory
from retroclip.memory.export import PART_ROWS
from retroclip.pairs import Pair, read_pairs


@pytest.fixture
def memory(tmp_path, encoder, pairs, stub, monkeypatch):
    """The pairs and some with odd names; rows deleted, compacted and replaced, so that ids aren't positions."""
    for name in PART_ROWS:
        monkeypatch.setitem(PART_ROWS, name, 25)
    deep = {"deep": {"x": [1, 2]}, "error": None}
    odd = [
        Pair("a.b.c", stub.photo(70), ("with\nbreak", "ünï — “quotes”"), source="other"),
        Pair("../../etc/passwd", stub.photo(71), (), 'a "label"', source="made", metadata=deep),
        Pair("/abs/ü", stub.photo(72, kind="JPEG"), ("a caption",), license="CC BY 4.0", source="made"),
    ]  # fmt: skip
    memory = Memory.create(tmp_path / "m", encoder, [*pairs, *odd])
    memory.delete("key IN ('p003', 'p040')")
    memory.add([Pair("p010", stub.photo(99), ("replaced",), source="made")], encoder, known="replace")
    memory.compact()
    return memory


def contents(memory):
    table = memory.take(memory.ids())
    vectors = [memory._store.take(memory.ids(), [f"{of}_embedding"]).to_pydict() for of in ("image", "text")]
    return table.to_pylist(), vectors


def test_through_clip_retrievals_layout_to_the_bit(tmp_path, encoder, memory):
    assert memory.export(tmp_path / "out", "clip-retrieval") == 61
    assert sorted(path.name for path in (tmp_path / "out" / "img_emb").iterdir()) == [
        "img_emb_0.npy", "img_emb_1.npy", "img_emb_2.npy",
    ]  # fmt: skip
    table = pq.read_table(tmp_path / "out" / "metadata" / "metadata_1.parquet")
    assert table["image_path"].to_pylist() == memory.take(memory.ids()[25:50], ["key"])["key"].to_pylist()
    again = Memory.create(tmp_path / "again", encoder, tmp_path / "out")
    assert contents(again) == contents(memory)
    again.export(tmp_path / "second", "clip-retrieval")
    for file in (tmp_path / "out").rglob("*.npy"):
        assert file.read_bytes() == (tmp_path / "second" / file.relative_to(tmp_path / "out")).read_bytes()


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_through_pairs(tmp_path, encoder, memory, format):
    assert memory.export(tmp_path / "out", format) == 61
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 3
    again = Memory.create(tmp_path / "again", encoder, files)
    assert contents(again)[0] == contents(memory)[0]
    assert np.allclose(again.embeddings(), memory.embeddings(), atol=1e-3)
    assert again.rejected() == []


def test_members_stay_inside_and_keep_their_type(tmp_path, memory):
    memory.export(tmp_path / "out", "webdataset", where="key LIKE '%a%' OR key LIKE '..%'")
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        names = tar.getnames()
    assert not any(".." in name or name.startswith("/") for name in names)
    assert {name.split(".", 1)[1] for name in names} == {"png", "jpg", "txt", "json"}


def test_no_key_is_taken_for_the_name_of_another_row(tmp_path, encoder, stub):
    keys = ["row-000000001", "é", "row-000000000"]
    memory = Memory.create(tmp_path / "m", encoder, [Pair(key, stub.photo(i)) for i, key in enumerate(keys)])
    memory.export(tmp_path / "out", "webdataset")
    assert [pair.key for pair in read_pairs(tmp_path / "out" / "00000.tar")] == keys


def test_without_images(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs[:9], images="none")
    with pytest.raises(MemoryStoreError, match="keeps no image of 9"):
        memory.export(tmp_path / "out", "webdataset")
    assert not any(path.name.startswith("out") for path in tmp_path.iterdir())
    memory.export(tmp_path / "out", "clip-retrieval")
    again = Memory.create(tmp_path / "again", encoder, tmp_path / "out", images="none")
    assert contents(again) == contents(memory)
    with pytest.raises(MemoryStoreError, match="exists already"):
        memory.export(tmp_path / "out", "clip-retrieval")
    with pytest.raises(MemoryStoreError, match="no row to export"):
        memory.export(tmp_path / "other", "parquet", where="key = 'nosuch'")
