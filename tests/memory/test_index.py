"""Stored indexes of a memory: kept up to date, measured, and checked for damage."""

import json
import shutil

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from retroclip.errors import MemoryStoreError
from retroclip.evaluation.leakage import near_duplicates
from retroclip.memory import Memory
from retroclip.memory.index import IndexFolder
from retroclip.memory.store import PAIRS_NAME

KINDS = ["flat", "hnsw", "ivf", "IVF4,SQ8"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, encoder, pairs):
    path = tmp_path_factory.mktemp("indexed") / "m"
    Memory.create(path, encoder, pairs)
    return path


@pytest.fixture
def memory(tmp_path, base):
    shutil.copytree(base, tmp_path / "m")
    return Memory.open(tmp_path / "m")


def names(memory, kind: str) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (memory.path / "index").glob(f"*{kind}*"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_measured_and_replaced(memory, pairs, kind):
    assert memory.info()["index"]["kind"] == "exact"
    told = memory.index(kind)
    entry = told["keys"]["image"]
    assert told["recall"]["image"]["own"]["10"] >= 0.95
    assert told["keys"]["text"]["rows"] == sum(bool(pair.captions) for pair in pairs)
    assert entry["latency"]["batch"] == 60
    assert entry["latency"]["ms"] > 0
    assert entry["ram"] > 0
    assert memory.verify() == []
    assert len(list((memory.path / "index").iterdir())) == 5
    memory.index()
    assert [path.name for path in (memory.path / "index").iterdir()] == ["index.json"]
    assert IndexFolder(memory.path).entries() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_and_mended_by_building_again(memory, kind):
    entry = memory.index(kind)["keys"]["image"]
    for file in (entry["file"], entry["rows_file"]):
        path = memory.path / "index" / file
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damaged in (bytes(flipped), whole[: len(whole) // 2], b""):
            path.write_bytes(damaged)
            fresh = Memory.open(memory.path)
            with pytest.raises(MemoryStoreError, match="is damaged: build it again with `retroclip memory index"):
                fresh.search(torch.ones(16))
            assert len(fresh.verify()) == 1
        path.unlink()
        with pytest.raises(MemoryStoreError, match="is missing: build it again"):
            Memory.open(memory.path).search(torch.ones(16))
        path.write_bytes(whole)
        assert Memory.open(memory.path).verify() == []
    path.unlink()
    mended = Memory.open(memory.path)
    mended.index(kind)
    assert mended.verify() == []
    assert (mended.search(torch.ones(16), k=60).ids >= 0).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"layout": 2, "keys"', "is damaged .* build it again with `retroclip memory index"),
        ("[]", "is damaged .* build it again with `retroclip memory index"),
        ('{"layout": 2}', "is damaged .* build it again with `retroclip memory index"),
        ('{"layout": "2"}', "is damaged .* build it again with `retroclip memory index"),
        ('{"layout": 2, "keys": {"image": {"kind": "flau"}}}', "is damaged .* build it again with"),
        ('{"layout": 9}', "layout 9, newer"),
    ],
)
def test_a_wrong_description_is_told(memory, content, message):
    memory.index("flat")
    (memory.path / "index" / "index.json").write_text(content)
    fresh = Memory.open(memory.path)
    with pytest.raises(MemoryStoreError, match=message) as raised:
        fresh.search(torch.ones(16))
    assert "\n" not in str(raised.value)
    assert len(fresh.verify()) == 1
    fresh.index("flat")
    assert fresh.verify() == []


@pytest.mark.parametrize(("name", "value"), [("version", "3"), ("file", 5), ("parameters", None)])
def test_a_value_of_another_kind_is_damage(memory, name, value):
    memory.index("flat")
    file = memory.path / "index" / "index.json"
    content = json.loads(file.read_text())
    content["keys"]["image"][name] = value
    file.write_text(json.dumps(content))
    with pytest.raises(MemoryStoreError, match=r"is damaged .* build it again with `retroclip memory index"):
        Memory.open(memory.path).search(torch.ones(16))


def test_a_checksum_that_differs_names_both_files_and_the_remedy(memory):
    entry = memory.index("flat")["keys"]["image"]
    description = memory.path / "index" / "index.json"
    description.write_text(description.read_text().replace(entry["rows_sha256"], "0" * 64))
    told = rf"{entry['rows_file']}, or index.json that names its checksum, is damaged: build it again with `retroclip"
    with pytest.raises(MemoryStoreError, match=told):
        Memory.open(memory.path).search(torch.ones(16))
    (problem,) = Memory.open(memory.path).verify()
    assert "index.json" in problem


@pytest.mark.parametrize("content", ["{", "[]", '{"layout": 9}', None, '"flat"'])
def test_a_purge_needs_no_description_of_the_indexes(memory, content):
    """It had refused, and told to restore the file: none of it is needed, for all indexes are removed."""
    file = memory.path / "index" / "index.json"
    memory.index("flat")
    whole = file.read_text()
    file.unlink() if content is None else file.write_text(
        whole.replace("flat", "flau") if "flat" in content else content
    )
    assert memory.purge("key = 'p008'") == 1
    assert memory.verify() == []
    assert memory.info()["index"]["kind"] == "exact"
    assert [path.name for path in file.parent.iterdir()] == ["index.json"]


def test_an_index_of_the_first_layout_counts_as_none(memory):
    (memory.path / "index").mkdir()
    (memory.path / "index" / "index.json").write_text(json.dumps({"keys": {"image": {"kind": "hnsw", "file": "x"}}}))
    assert (memory.search(torch.ones(16), k=60).ids >= 0).all()
    assert memory.info()["index"]["kind"] == "exact"


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_catches_up_without_being_trained_again(memory, encoder, pairs, stub, kind):
    from retroclip.pairs import Pair

    memory.index(kind)
    memory.delete("key < 'p010'")
    memory.add([Pair(f"n{i}", stub.photo(1000 + i)) for i in range(7)], encoder)
    told = memory.index(kind)["keys"]["image"]
    assert told["trained_rows"] == 60
    assert told["rows"] == (57 if kind == "ivf" else 67)
    assert told["last_row_id"] == memory.ids()[-1]
    hits = memory.search(memory.embeddings(), k=1)
    assert hits.ids[:, 0].tolist() == memory.ids().tolist()
    assert memory.verify() == []
    memory.delete("key < 'p050'")
    assert memory.index(kind)["keys"]["image"]["trained_rows"] == 10


def test_a_memory_without_captions_can_be_indexed(tmp_path, encoder, stub):
    from retroclip.pairs import Pair

    memory = Memory.create(tmp_path / "m", encoder, [Pair(f"{i}", stub.photo(i)) for i in range(5)])
    memory.index("ivf")
    assert memory.search(torch.ones(16), by="text", k=3).ids.tolist() == [[-1, -1, -1]]
    assert (memory.search(torch.ones(16), k=3).ids >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "IVF9999,Flat"}, "can't be trained on"),
        ({"kind": "nonsense"}, "can't make an index 'nonsense'"),
        ({"kind": "hnsw", "ram": "1kB"}, "more than 0.5 kB"),
        ({"kind": "flat", "recall": 95}, "it is a share"),
        ({"ram": "lots"}, "no amount of memory"),
    ],
)
def test_wrong_wishes_leave_the_old_index(memory, arguments, message):
    memory.index("flat")
    with pytest.raises(MemoryStoreError, match=message) as raised:
        memory.index(**arguments)
    assert "\n" not in str(raised.value)
    assert Memory.open(memory.path).info()["index"]["kind"] == "flat"
    assert memory.search(memory.embeddings()[:3], k=1).ids[:, 0].tolist() == memory.ids()[:3].tolist()


def test_embeddings_that_are_not_finite_are_named(memory):
    table = lance.dataset(str(memory.path / PAIRS_NAME)).to_table()
    spoilt = table.slice(0, 1).to_pylist()[0] | {"key": "spoilt", "image_embedding": [float("nan")] * 16}
    lance.write_dataset(
        pa.Table.from_pylist([spoilt], schema=table.schema), str(memory.path / PAIRS_NAME), mode="append"
    )
    for act in (lambda: Memory.open(memory.path).search(torch.ones(16)), lambda: memory.index("ivf")):
        with pytest.raises(MemoryStoreError, match=r"1 image embeddings .* such as that of key 'spoilt': delete"):
            act()
    memory.refresh()
    memory.delete("key = 'spoilt'")
    memory.index("ivf")
    assert memory.search(torch.ones(16), k=3).ids.shape == (1, 3)


def test_embeddings_come_from_the_index_file_too(memory):
    before, texts = memory.embeddings(), memory.embeddings(of="text")
    memory.index("ivf")
    np.testing.assert_allclose(memory.embeddings(), before, atol=1e-6)
    np.testing.assert_allclose(memory.embeddings(of="text"), texts, atol=1e-6)
    ids = np.array([[5, -1], [59, 5]])
    np.testing.assert_allclose(memory.embeddings(ids)[1, 0], before[59], atol=1e-6)
    assert memory.embeddings(ids)[0, 1].norm() == 0


def test_an_approximate_index_hides_no_near_duplicate_of_evaluated_images(tmp_path, encoder):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for name in ("img_emb", "text_emb"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        np.save(tmp_path / "folder" / name / f"{name}_0.npy", rows)
    (tmp_path / "folder" / "metadata").mkdir()
    table = pa.table({"key": [f"{row:04}" for row in range(2000)], "caption": ["some text"] * 2000})
    pq.write_table(table, tmp_path / "folder" / "metadata" / "metadata_0.parquet")
    memory = Memory.create(tmp_path / "m", encoder, tmp_path / "folder", check=False)
    memory.index("IVF64,Flat")
    file = tmp_path / "m" / "index" / "index.json"
    told = json.loads(file.read_text())
    told["keys"]["image"]["parameters"] = {"nprobe": 1}
    file.write_text(json.dumps(told))
    memory = Memory.open(tmp_path / "m")
    noise = torch.from_numpy(rng.standard_normal((2000, 16))).float()
    images = torch.nn.functional.normalize(memory.embeddings() + 0.06 * noise, dim=1)
    near = (memory.embeddings() @ images.T).amax(1).numpy() > 0.95
    hits = memory.search(images, k=16)
    assert 0 < len(np.unique(hits.ids[hits.scores > 0.95])) < near.sum(), "the index misses none: this tests nothing"
    assert near_duplicates(memory, images).tolist() == memory.ids()[near].tolist()
