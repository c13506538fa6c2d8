"""Importing embeddings in clip-retrieval's layout: the same rows as encoding, and what is wrong told in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory import Memory
from retroclip.memory.embedded import _json_objects, embedded_rows
from retroclip.memory.keys import KeySet, key_hashes
from retroclip.pairs import EmbeddingSlice

WORDS = ["red", "green", "blue", "old", "house", "dog"]


def captions_of(count, first=0):
    return [f"{WORDS[i % 6]} thing number {i}" for i in range(first, first + count)]


@pytest.fixture
def folder(tmp_path, encoder):
    """Three parts of 40 rows as clip-retrieval writes them: every seventh row without caption."""
    root = tmp_path / "embeddings"
    rng = np.random.default_rng(0)
    for number in range(3):
        captions = captions_of(40, 40 * number)
        images = rng.standard_normal((40, 16)).astype(np.float32)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        write(root, "img_emb", number, images.astype(np.float16))
        write(root, "text_emb", number, encoder.encode_texts(captions).numpy().astype(np.float16))
        keys = [f"{number}{row:04}" for row in range(40)]
        shown = [None if row % 7 == 0 else caption for row, caption in enumerate(captions)]
        table = pa.table({
            "image_path": keys, "caption": shown, "key": keys, "url": [f"https://x/{key}" for key in keys],
            "similarity": [None if row == 3 else row / 7 for row in range(40)], "LICENSE": ["CC0"] * 40,
        })  # fmt: skip
        (root / "metadata").mkdir(exist_ok=True)
        pq.write_table(table, root / "metadata" / f"metadata_{number}.parquet", row_group_size=9)
    return root


def write(root, name, number, rows):
    (root / name).mkdir(parents=True, exist_ok=True)
    np.save(root / name / f"{name}_{number}.npy", rows)


def stored(root, name):
    return np.concatenate([np.load(root / name / f"{name}_{number}.npy") for number in range(3)])


def test_rows_are_those_of_the_files(tmp_path, encoder, folder, monkeypatch):
    monkeypatch.setattr("retroclip.pairs.embeddings.Part.slices.__defaults__", (13,))
    memory = Memory.create(tmp_path / "m", encoder, folder)
    rows = memory.take(memory.ids(), ["key", "caption", "captions", "license", "source", "metadata"]).to_pylist()
    assert len(rows) == 120
    assert [row["key"] for row in rows[38:42]] == ["00038", "00039", "10000", "10001"]
    assert rows[1]["captions"] == [rows[1]["caption"]] == ["green thing number 1"]
    assert (rows[0]["caption"], rows[0]["captions"]) == (None, [])
    assert (rows[0]["license"], rows[0]["source"]) == ("CC0", "embeddings")
    assert json.loads(rows[3]["metadata"]) == {"url": "https://x/00003"}
    assert json.loads(rows[4]["metadata"]) == {"url": "https://x/00004", "similarity": 4 / 7}
    raw = memory._store.column("image_embedding").combine_chunks().flatten().to_numpy()
    assert np.array_equal(raw.reshape(-1, 16), stored(folder, "img_emb"))
    assert memory.has_text().tolist() == [row["caption"] is not None for row in rows]
    assert memory.verify() == []


def test_longer_vectors_are_normalised_and_single_files_may_lack(tmp_path, encoder, folder):
    for name in ("text_emb", "metadata"):
        for file in (folder / name).iterdir():
            file.unlink()
    rows = np.random.default_rng(1).standard_normal((40, 16)) * 3
    write(folder, "img_emb", 1, rows)
    memory = Memory.create(tmp_path / "m", encoder, [str(folder)])
    assert memory.take([41], ["key"])["key"][0].as_py().startswith("embeddings/0001/0000001-")
    expected = rows[1] / np.linalg.norm(rows[1])
    assert np.allclose(memory.embeddings([41])[0], expected, atol=1e-3)
    assert not memory.has_text().any()
    assert memory.verify() == []


def test_captions_without_embeddings_are_counted_as_such(tmp_path, encoder, folder, monkeypatch):
    for file in (folder / "text_emb").iterdir():
        file.unlink()
    memory = Memory.create(tmp_path / "m", encoder, folder, where="caption LIKE '%thing%'")
    for counted in (1000, 10):
        monkeypatch.setattr("retroclip.memory.describe.COUNTED", counted)
        info = memory.info()
        assert (info["with_text"], info["with_caption"], info["rows"]) == (0, len(memory), len(memory))


def test_known_keys_are_skipped_or_replaced(tmp_path, encoder, folder):
    memory = Memory.create(tmp_path / "m", encoder, folder, where="similarity < 3")
    before = len(memory)
    assert 0 < before < 120
    added = memory.add(folder, encoder)
    assert (added.read, added.rows, added.duplicates) == (120, 120 - before, before)
    flipped = -stored(folder, "img_emb")[:40]
    write(folder, "img_emb", 0, flipped)
    assert memory.add(folder, encoder).rows == 0
    added = memory.add(folder, encoder, known="replace")
    assert (added.rows, added.replaced, len(memory)) == (120, 120, 120)
    assert np.allclose(memory.embeddings()[:40], flipped.astype(np.float32), atol=1e-3)
    assert memory.search(memory.embeddings()[:1], k=1).ids[0, 0] == memory.ids()[0]
    assert memory.verify() == []


def test_pairs_with_known_keys_are_replaced(tmp_path, encoder, pairs, stub):
    memory = Memory.create(tmp_path / "m", encoder, pairs[:20])
    memory.index("flat")
    changed = [pairs[30], *[type(pairs[0])(pair.key, stub.photo(900), pair.captions) for pair in pairs[5:8]]]
    added = memory.add(changed, encoder, known="replace")
    assert (added.rows, added.replaced, len(memory)) == (4, 3, 21)
    rows = memory.take(memory.ids(), ["key", "image"]).to_pylist()
    assert {row["key"] for row in rows if row["image"] == stub.photo(900)} == {"p005", "p006", "p007"}
    assert memory.verify() == []


def test_an_interrupted_import_goes_on(tmp_path, encoder, folder, monkeypatch):
    def stop(read, rejected):
        if read >= 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Memory.create(tmp_path / "m", encoder, folder, on_batch=stop)
    assert not (tmp_path / "m").exists()
    memory = Memory.create(tmp_path / "m", encoder, folder)
    whole = Memory.create(tmp_path / "whole", encoder, folder)
    assert memory.take(memory.ids()).equals(whole.take(whole.ids()))
    assert np.array_equal(memory.embeddings(), whole.embeddings())


def test_rows_without_direction_are_rejected(tmp_path, encoder, folder):
    rows = np.load(folder / "img_emb" / "img_emb_0.npy")
    rows[5], rows[6, 3] = 0, np.nan
    write(folder, "img_emb", 0, rows)
    memory = Memory.create(tmp_path / "m", encoder, folder)
    assert len(memory) == 118
    reasons = {item.key: item.reason for item in memory.rejected()}
    assert reasons == {"00005": "the image embedding is zero", "00006": "the image embedding is not finite"}
    rows[:] = np.inf
    write(folder, "img_emb", 0, rows)
    with pytest.raises(SourceError, match=r"40 of the first 40 .*not finite"):
        Memory.create(tmp_path / "n", encoder, folder)


def test_files_that_do_not_belong_together(tmp_path, encoder, folder, stub):
    metadata = folder / "metadata" / "metadata_1.parquet"
    table = pq.read_table(metadata)
    pq.write_table(table.slice(1), metadata)
    with pytest.raises(SourceError, match=r"part 1 have different .*img_emb 40, text_emb 40, metadata 39"):
        Memory.create(tmp_path / "m", encoder, folder)
    shifted = {name: table[name].to_pylist()[1:] + table[name].to_pylist()[:1] for name in table.column_names}
    pq.write_table(pa.table(shifted), metadata)
    with pytest.raises(MemoryStoreError, match=r"text embeddings of part 1 are not those of stub.*rows are shifted"):
        Memory.create(tmp_path / "m", encoder, folder)
    metadata.unlink()
    with pytest.raises(SourceError, match="part 1 has no file in metadata"):
        Memory.create(tmp_path / "m", encoder, folder)


def test_two_files_of_one_number_are_told(tmp_path, encoder, folder):
    """The second one's rows took the place of the first one's, beside the first one's captions."""
    write(folder, "img_emb", "01", np.load(folder / "img_emb" / "img_emb_2.npy"))
    with pytest.raises(SourceError, match=r"img_emb_01.npy and img_emb_1.npy are both part 1"):
        Memory.create(tmp_path / "m", encoder, folder)


def test_damaged_pages_of_metadata_are_told_with_the_file(tmp_path, encoder, folder):
    metadata = folder / "metadata" / "metadata_1.parquet"
    data = bytearray(metadata.read_bytes())
    data[20:400] = bytes(380)
    metadata.write_bytes(data)
    with pytest.raises(SourceError, match=r"metadata_1.parquet can't be read as parquet: .*get it again"):
        Memory.create(tmp_path / "m", encoder, folder)


def test_wrong_models_dimensions_and_files(tmp_path, encoder, folder, stub):
    with pytest.raises(MemoryStoreError, match=r"dimension 16, stub has 8: name the model"):
        Memory.create(tmp_path / "m", stub.StubEncoder(dim=8), folder)
    with pytest.raises(MemoryStoreError, match=r"not those of stub"):
        Memory.create(tmp_path / "other", stub.StubEncoder(seed=5), folder)
    (tmp_path / "photos").mkdir()
    with pytest.raises(SourceError, match="give it alone"):
        Memory.create(tmp_path / "m", encoder, [folder, tmp_path / "photos"])
    with pytest.raises(SourceError, match="no column 'nosuch'"):
        Memory.create(tmp_path / "m", encoder, folder, where="nosuch = 1")
    file = folder / "img_emb" / "img_emb_2.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(SourceError, match=r"img_emb_2.npy is cut off"):
        Memory.create(tmp_path / "m", encoder, folder)
    file.write_bytes(b"PK" + whole)
    with pytest.raises(SourceError, match=r"img_emb_2.npy can't be read"):
        Memory.create(tmp_path / "m", encoder, folder)
    write(folder, "img_emb", 2, np.ones((40, 12), np.float16))
    with pytest.raises(SourceError, match="differ in dimension"):
        Memory.create(tmp_path / "m", encoder, folder)
    assert not (tmp_path / "m").exists()


def test_lists_and_images_of_other_writers_are_read(stub):
    lists = pa.array([["one", "two"], [], None], pa.large_list(pa.large_string()))  # as polars writes them
    images = [{"bytes": stub.photo(i), "path": None} for i in range(3)]  # as Hugging Face datasets write them
    table = pa.table({"captions": lists, "image": images, "caption": pa.array(["a", "b", "c"]).dictionary_encode()})
    rows = embedded_rows(EmbeddingSlice(0, np.arange(3), np.eye(3, 16), None, table), "here").table
    assert rows["captions"].to_pylist() == [["one", "two"], [], []]
    assert rows["image"].to_pylist() == [stub.photo(i) for i in range(3)]


def test_a_column_of_json_becomes_json_as_it_is_stored(stub):
    texts = ['{"gr\\u00f6\\u00dfe": 3}', "{broken", '{"a": 1}', None, "[1]"]
    table = pa.table({"metadata": texts})
    rows = embedded_rows(EmbeddingSlice(0, np.arange(5), np.eye(5, 16), None, table), "here").table
    stored = ['{"größe": 3}', '{"metadata": "{broken"}', '{"a": 1}', "{}", '{"metadata": [1]}']
    assert rows["metadata"].to_pylist() == stored  # predicates look for names as they are written here


def test_metadata_is_the_json_that_python_writes():
    columns = {
        "a": pa.array(["plain", 'with "quotes"', None, "line\nend", "ünï"]),
        "b": pa.array([1, None, 3, -4, 5]),
        "c": pa.array([0.1, float("nan"), None, 1e-7, 1e20]),
        "d": pa.array([True, False, None, True, None]),
        "e": pa.array([[1, 2], None, [], [3], [4]]),
    }
    rows = pa.table(columns).to_pylist()
    expected = [
        json.dumps({name: value for name, value in row.items() if value is not None}, ensure_ascii=False)
        for row in rows
    ]
    assert _json_objects(columns, 5).to_pylist() == expected
    assert _json_objects({}, 2).to_pylist() == ["{}", "{}"]
    assert _json_objects({"url": pa.array([None, "x", None])}, 3).to_pylist() == ["{}", '{"url": "x"}', "{}"]


def test_key_sets_hold_what_was_added():
    keys, rng, expected = KeySet(), np.random.default_rng(0), set()
    for size in (1, 300, 5, 40, 0, 1000):
        fresh = [f"key {number}" for number in rng.integers(0, 4000, size)]
        new = sorted(set(fresh) - expected)
        assert keys.contains(key_hashes(fresh)).tolist() == [key in expected for key in fresh]
        keys.add(key_hashes(new))
        expected.update(new)
        assert len(keys) == len(expected)
