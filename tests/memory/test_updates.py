"""Thousands of rows, indexed, then changed: filters that keep much or little find what exact search finds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.memory import Memory, search
from retroclip.memory.exact import exact_search
from retroclip.memory.measure import recall_of
from retroclip.memory.rows import HeldRows

DIM, ROWS, MORE = 16, 12_000, 2_000
FILTERS = {0.5: "label = '1'", 0.05: "source = '7'", 0.001: "license = 'rare'"}


def embeddings(folder, first, count, seed):
    """A folder of rows around 40 centres; every second, twentieth and thousandth can be told by a column."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    rows = centres[rng.integers(0, 40, count)] + 0.6 * rng.standard_normal((count, DIM))
    numbers = np.arange(first, first + count)
    table = pa.table({
        "key": [f"{number:06}" for number in numbers],
        "label": [str(number % 2) for number in numbers],
        "source": [str(number % 20) for number in numbers],
        "license": ["rare" if number % 1000 == 3 else "CC0" for number in numbers],
    })  # fmt: skip
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", rows.astype(np.float16))
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivf", "IVF32,SQ8"])
def changed(request, tmp_path_factory, encoder):
    """A memory with an index, of which a fifth was deleted, as much added and some replaced, then compacted."""
    root = tmp_path_factory.mktemp("changed")
    memory = Memory.create(root / "m", encoder, embeddings(root / "first", 0, ROWS, 1))
    memory.index(request.param)
    memory.delete("key LIKE '%5' OR key LIKE '%8'")
    memory.add(embeddings(root / "more", ROWS, MORE, 2), encoder)
    memory.add(embeddings(root / "again", 20, 300, 3), encoder, known="replace")
    memory.compact()
    assert memory.verify() == []
    return memory


@pytest.mark.parametrize("share", [None, *FILTERS])
@pytest.mark.parametrize("updated", [False, True])
def test_recall_under_filters_after_updates(changed, monkeypatch, share, updated):
    monkeypatch.setattr(search, "EXACT_LEFT", 5)  # else all of these few rows are compared
    memory = changed
    if updated:
        memory.index(memory.info()["index"]["kind"])
    where = None if share is None else FILTERS[share]
    ids = memory.ids() if where is None else memory.matching(where)
    queries = memory.embeddings()[::97][:100] + 0.1
    hits = memory.search(queries, k=10, where=where)
    unit = queries / queries.norm(dim=1, keepdim=True)
    exact = exact_search(unit, HeldRows(memory.embeddings(ids)), ids, 10)[1]
    assert share is None or abs(len(ids) / len(memory) - share) < 0.3 * share
    assert len(ids) >= 10
    assert (hits.ids >= 0).all()
    assert np.isin(hits.ids, ids).all()
    recall = recall_of(exact, hits.scores)
    assert recall == 1 if memory.info()["index"]["kind"] == "flat" else recall >= 0.95


def test_keys_that_come_twice_in_a_folder_are_one_row(tmp_path, encoder):
    folder = embeddings(tmp_path / "rows", 0, 50, 1)
    file = folder / "metadata" / "metadata_0.parquet"
    table = pq.read_table(file)
    keys = table["key"].to_pylist()
    keys[30:33] = keys[5], keys[6], keys[5]
    pq.write_table(table.set_column(0, "key", pa.array(keys)), file)
    memory = Memory.create(tmp_path / "m", encoder, folder)
    assert (len(memory), memory.info()["duplicates"]) == (47, 3)
    first = np.load(folder / "img_emb" / "img_emb_0.npy")[5].astype(np.float32)
    row = memory.embeddings(memory.matching(f"key = '{keys[5]}'"))[0].numpy()
    np.testing.assert_allclose(row, first / np.linalg.norm(first), atol=1e-3)
    assert memory.verify() == []
