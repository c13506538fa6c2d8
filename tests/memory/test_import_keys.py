"""Keys of imported rows: those of nameless ones, and how they are known again."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retroclip.memory import Blocklist, Memory
from retroclip.memory.embedded import _keys


def nameless(root, seed, metadata=None, count=12):
    """An embedding folder of one part whose metadata, where there are any, are those given."""
    rows = np.random.default_rng(seed).standard_normal((count, 16))
    (root / "img_emb").mkdir(parents=True)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    np.save(root / "img_emb" / "img_emb_0.npy", unit)
    if metadata is not None:
        (root / "metadata").mkdir()
        pq.write_table(pa.table(metadata), root / "metadata" / "metadata_0.parquet")
    return root


def test_folders_without_keys_do_not_hide_each_other(tmp_path, encoder):
    urls = {"url": [f"https://x/{row}" for row in range(12)]}
    folders = [nameless(tmp_path / "a", 0), nameless(tmp_path / "b", 1, urls), nameless(tmp_path / "there" / "a", 2)]
    memory = Memory.create(tmp_path / "m", encoder, folders[:1])
    for known in ("skip", "replace"):
        assert memory.add(folders[1:], encoder, known=known).read == 24
        assert len(memory) == 36
    together = Memory.create(tmp_path / "together", encoder, folders)
    rows = memory.take(memory.ids(), ["key"])["key"].to_pylist()
    assert set(together.take(together.ids(), ["key"])["key"].to_pylist()) == set(rows) and len(set(rows)) == 36
    assert all(str(tmp_path) not in key and key.startswith(("a/0000/", "b/0000/")) for key in rows)
    assert memory.add(folders, encoder).duplicates == 36


def test_rows_alone_without_a_key_get_another(tmp_path, encoder):
    keys = [None if row == 3 else f"k{row}" for row in range(12)]
    paths = [None if row < 4 else f"p{row}" for row in range(12)]
    memory = Memory.create(tmp_path / "m", encoder, nameless(tmp_path / "a", 0, {"key": keys, "image_path": paths}))
    rows = memory.take(memory.ids(), ["key"])["key"].to_pylist()
    assert [key for key in rows if key in keys] == [key for key in keys if key]
    assert rows[3].startswith("a/0000/0000003-")


def test_rows_under_the_keys_of_before_are_found_again(tmp_path, encoder, monkeypatch):
    first, second = nameless(tmp_path / "a", 0), nameless(tmp_path / "b", 1)
    old = [f"0000/{row:07d}" for row in range(12)]
    own = Memory.create(tmp_path / "own", encoder, first)
    with monkeypatch.context() as patched:
        patched.setattr("retroclip.memory.embedded._keys", lambda *_: (pa.array(old), pa.array(old)))
        memory = Memory.create(tmp_path / "m", encoder, first)
    assert memory.take(memory.ids(), ["key"])["key"].to_pylist() == old
    assert memory.add([first, second], encoder).duplicates == 12
    assert memory.add([first, second, first], encoder, known="replace").replaced == 24
    assert len(memory) == 24 and len(own) == 12
    assert memory.verify() == []
    blocked = Blocklist({"key": frozenset([old[5]])})  # made when that was all of the key
    assert Memory.create(tmp_path / "n", encoder, first, blocklist=blocked).info()["rejected"] == 1


def test_rows_with_names_beside_nameless_ones_keep_them_and_are_known_by_their_former_keys():
    vectors = np.eye(3, 16, dtype=np.float16)
    columns = {"key": pa.chunked_array([pa.array(["a", None, "c"])])}
    keys, former = _keys(columns, 2, np.arange(3), "laion", vectors)
    assert keys.to_pylist()[::2] == ["a", "c"] and keys[1].as_py().startswith("laion/0002/0000001-")
    assert former.to_pylist() == ["0002/0000000", "0002/0000001", "0002/0000002"]
    columns["image_path"] = pa.chunked_array([pa.array(["x", "y", "z"])])
    keys, former = _keys(columns, 2, np.arange(3), "laion", vectors)
    assert keys.to_pylist() == ["x", "y", "z"] and former.null_count == 3
