"""Opening, predicates, deletion, information, verification."""

import json
from dataclasses import replace

import lance
import numpy as np
import pyarrow as pa
import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory import Blocklist, Memory
from retroclip.memory.predicate import checked_predicate
from retroclip.retrieval.hygiene import blocked


@pytest.fixture
def memory(tmp_path, encoder, pairs) -> Memory:
    return Memory.create(tmp_path / "m", encoder, pairs)


@pytest.mark.parametrize(
    "where",
    ["key = 'p001'; DROP TABLE x", "key = 'p001' -- AND label = 'odd'", "key = 'p001' /* or */", "", "  ;"],
)
def test_more_than_a_predicate_is_refused(memory, where):
    for use in (memory.delete, memory.matching, lambda own: memory.search(memory.embeddings()[:1], where=own)):
        with pytest.raises(MemoryStoreError, match="predicate"):
            use(where)
    assert len(memory) == 60


def test_quoted_text_may_contain_anything():
    assert checked_predicate("caption = 'a; b -- c /* d'' */'")
    with pytest.raises(MemoryStoreError):
        checked_predicate("caption = 'it''s'; DELETE")


def test_double_quotes_are_neither_a_text_nor_a_name(memory):
    for where in ("\"label\" != 'cat'", '"n" > 3', 'label = "odd"'):  # Lance: true of all rows; an error; a text
        with pytest.raises(MemoryStoreError, match="has double quotes: write texts in single quotes"):
            memory.delete(where)
    assert checked_predicate('caption = \'a "b"\' AND `odd "name` = 1')
    assert len(memory) == 60


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("key ==", "not understood"),
        ("lable = 'odd'", "No field named lable"),
        ("key", "boolean"),
        ("key IN ('a',", r"Error parsing statement \(sql parser error: .*EOF\) \(columns"),
        ("key = 'x", "string"),
    ],
)
def test_a_wrong_predicate_is_one_clear_line(memory, where, message):
    with pytest.raises(MemoryStoreError, match=message) as caught:
        memory.delete(where)
    text = str(caught.value)
    assert "\n" not in text
    assert ".rs" not in text
    assert "columns: key" in text


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("n >= 55", lambda pair, n: n >= 55),
        (
            "n IN (3, 4) OR label = 'odd' AND NOT n < 50",
            lambda pair, n: n in (3, 4) or (n >= 50 and pair.label == "odd"),
        ),
        (
            "n BETWEEN 2 AND 4 OR n NOT BETWEEN -1 AND 57 AND key BETWEEN 'p059' AND 'q'",
            lambda pair, n: n in (2, 3, 4, 59),
        ),
        ("unique IS NOT NULL", lambda pair, n: n == 7),
        ("tags = 'b''c'", lambda pair, n: n == 8),
        ("`odd name` LIKE 'x%'", lambda pair, n: n == 8),
        ("_rowid < 5 AND n > 2", lambda pair, n: 2 < n < 5),
        ("LABEL = 'odd' AND n > 50", lambda pair, n: pair.label == "odd" and n > 50),  # as without the second
        ("image IS NOT NULL AND text_embedding IS NULL AND n < 30", lambda pair, n: n < 30 and not pair.captions),
        ("unique = TRUE OR missing IS NULL AND n > 57", lambda pair, n: n in (7, 58)),  # NaN: pandas' missing number
    ],
)
def test_a_predicate_reaches_the_values_of_the_metadata(tmp_path, encoder, pairs, where, matches):
    more = {
        7: {"unique": True},
        8: {"tags": ["a", "b'c"], "odd name": "xy"},
        58: {"missing": np.nan},
        59: {"missing": 1},
    }
    pairs = [replace(pair, metadata={**pair.metadata, **more.get(i, {})}) for i, pair in enumerate(pairs)]
    memory = Memory.create(tmp_path / "m", encoder, pairs)
    wanted = [i for i, pair in enumerate(pairs) if matches(pair, i)]
    assert memory.matching(where).tolist() == wanted
    hits = memory.search(memory.embeddings()[:1], k=60, where=where)
    assert sorted(hits.ids[hits.ids >= 0].tolist()) == wanted
    assert memory.delete(where) == len(wanted)
    assert memory.ids().tolist() == [i for i in range(60) if i not in wanted]


def test_metadata_that_is_no_json_object_is_a_value(tmp_path, encoder, memory):
    """Older imports stored a column `metadata` as it was: searches, exports and migrations of it ended in an error."""
    table = memory._store._dataset.to_table(limit=3)
    texts = pa.array(["{not json n", '"n"', "[1, 2]"])
    spoilt = table.set_column(0, "key", pa.array(["x", "y", "z"])).set_column(7, "metadata", texts)
    memory._store.append(spoilt.cast(table.schema))
    assert memory.matching("n >= 58 AND KEY > 'a'").tolist() == [58, 59]
    memory.block(Blocklist({"url": frozenset(["https://x"])}))
    assert blocked(memory, Blocklist.of(memory.path)).tolist() == []
    memory.export(tmp_path / "out", "webdataset", where="key >= 'x'")
    kept = Memory.create(tmp_path / "again", encoder, tmp_path / "out" / "00000.tar")
    stored = ['{"metadata": "{not json n"}', '{"metadata": "n"}', '{"metadata": [1, 2]}']
    assert kept.take(kept.ids(), ["metadata"])["metadata"].to_pylist() == stored
    memory.migrate(type(encoder)(seed=5))
    assert memory.take(memory.ids()[-3:], ["metadata"])["metadata"].to_pylist() == stored


def test_names_that_no_metadata_has_are_told_with_those_it_has(memory):
    with pytest.raises(MemoryStoreError, match=r"No field named m .*in the metadata, by .*functions: n; .* quotes"):
        memory.delete("m > 3 OR n = 1")
    with pytest.raises(MemoryStoreError, match=r"No field named odd .*without functions: n; .* single quotes"):
        memory.delete("label = odd")
    with pytest.raises(MemoryStoreError, match=r"No field named n .*by =, .*BETWEEN, IN.* without functions: n\)$"):
        memory.delete("abs(n) = 1")
    assert len(memory) == 60


def test_delete_counts_and_forgets(memory, pairs):
    odd = [i for i, pair in enumerate(pairs) if pair.label == "odd"]
    assert memory.matching("label = 'odd'").tolist() == odd
    assert memory.delete("label = 'odd'") == len(odd)
    assert memory.delete("label = 'odd'") == 0
    assert len(memory) == 60 - len(odd)
    assert not np.isin(memory.search(memory.embeddings(), k=60).ids, odd).any()
    assert memory.delete("true") == 60 - len(odd)
    assert len(memory) == 0
    assert memory.search(np.ones((1, 16)), k=2).ids.tolist() == [[-1, -1]]
    assert memory.embeddings().shape == (0, 16)
    assert memory.verify() == []


def test_another_model_is_named(memory, encoder, stub):
    memory.check_encoder(encoder)
    other = stub.StubEncoder(seed=1, name="other-model")
    with pytest.raises(MemoryStoreError, match=r"made by model stub \(\w+\), not by other-model"):
        memory.check_encoder(other)
    with pytest.raises(MemoryStoreError, match="other-model"):
        memory.add([], other)


def test_info(memory, pairs):
    info = memory.info()
    assert info["rows"] == 60
    assert info["with_text"] == info["with_caption"] == sum(bool(pair.captions) for pair in pairs)
    assert info["with_label"] == sum(pair.label is not None for pair in pairs)
    assert info["labels"] == 2
    assert info["sources"] == {"made": 60}
    assert info["model"] == "stub"
    assert info["size_bytes"] > 10_000
    json.dumps(info)


@pytest.mark.parametrize("wrong", [{"format_version": "1"}, {"dim": "16"}, {"creation": None}])
def test_a_value_of_another_kind_in_the_manifest_is_one_line(tmp_path, memory, wrong):
    manifest = tmp_path / "m" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | wrong))
    with pytest.raises(MemoryStoreError, match=f"is damaged .{next(iter(wrong))}"):
        Memory.open(tmp_path / "m")


@pytest.mark.parametrize("dim", [0, 8, 1000])
def test_another_dimension_in_the_manifest_is_one_line(tmp_path, memory, dim):
    manifest = tmp_path / "m" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"dim": dim}))
    with pytest.raises(MemoryStoreError, match=rf"embeddings have {dim} numbers \(dim\), the rows have 16"):
        Memory.open(tmp_path / "m")


def test_info_lists_no_more_sources_than_one_reads(tmp_path, encoder, pairs):
    many = [replace(pair, source=f"https://x/{max(i, 5)}") for i, pair in enumerate(pairs)]
    again = [
        replace(pair, key=f"{pair.key} {n}", source=f"https://x/{i}/{n}")
        for n in range(2)
        for i, pair in enumerate(pairs)
    ]
    sources = Memory.create(tmp_path / "m", encoder, many + again).info()["sources"]
    assert len(sources) == 101 and next(iter(sources.items())) == ("https://x/5", 6)
    assert sources["(75 others)"] == 75


def test_every_creation_has_its_own_id(tmp_path, memory, encoder, pairs):
    again = Memory.create(tmp_path / "again", encoder, pairs)
    assert memory.id == Memory.open(tmp_path / "m").id != again.id
    manifest = tmp_path / "m" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["id"]
    manifest.write_text(json.dumps(content))
    assert Memory.open(tmp_path / "m").id == content["created"]


def test_what_is_no_memory_is_told(tmp_path, memory):
    with pytest.raises(MemoryStoreError, match="there is no memory at"):
        Memory.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MemoryStoreError, match="is not a memory"):
        Memory.open(tmp_path / "empty")
    manifest = tmp_path / "m" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(MemoryStoreError, match="update retroclip"):
        Memory.open(tmp_path / "m")
    manifest.write_text("{")
    with pytest.raises(MemoryStoreError, match="is damaged"):
        Memory.open(tmp_path / "m")


def test_verify_names_damage(tmp_path, memory):
    table = memory._store._dataset.to_table(limit=2)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.full(32, np.nan, np.float16)), 16)
    spoilt = table.set_column(table.schema.get_field_index("image_embedding"), "image_embedding", vector)
    lance.write_dataset(spoilt, str(tmp_path / "m" / "pairs.lance"), mode="append")
    memory.refresh()
    problems = memory.verify()
    assert any("2 keys occur more than once" in problem for problem in problems)
    assert any("2 image embeddings are not of unit length" in problem for problem in problems)
    fragment = max((tmp_path / "m" / "pairs.lance" / "data").iterdir(), key=lambda path: path.stat().st_size)
    fragment.write_bytes(fragment.read_bytes()[:500])
    problems = Memory.open(tmp_path / "m").verify()
    assert len(problems) == 1
    assert problems[0].startswith("pairs.lance")
