"""Search equals brute force over the live rows, whatever happened to the memory before."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retroclip.errors import MemoryStoreError
from retroclip.evaluation.leakage import without
from retroclip.memory import Memory
from retroclip.memory.lists import ListIndex

FILTERS = {
    None: lambda pair: True,
    "label = 'odd'": lambda pair: pair.label == "odd",
    "label IS NULL": lambda pair: pair.label is None,
    "caption LIKE 'photo%' AND key < 'p030'": lambda pair: (
        bool(pair.captions) and pair.caption.startswith("photo") and pair.key < "p030"
    ),
    "key = 'p004'": lambda pair: pair.key == "p004",
}
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 59), st.integers(1, 30)),
    st.tuples(st.just("replace"), st.integers(0, 59), st.integers(1, 5)),
    st.tuples(st.just("delete"), st.sampled_from([f for f in FILTERS if f])),
    st.tuples(st.just("compact")),
    st.tuples(st.just("index"), st.sampled_from(["flat", "exact", "hnsw", "ivf", "auto"])),
    st.tuples(
        st.just("search"), st.sampled_from(["image", "text"]), st.integers(1, 30), st.sampled_from(list(FILTERS))
    ),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory, encoder, pairs):
    path = tmp_path_factory.mktemp("base") / "m"
    Memory.create(path, encoder, pairs[:20], shard_pairs=15)
    return path


def expected(rows: dict, queries: torch.Tensor, by: str, k: int, keep, excluded: set) -> tuple[list, np.ndarray]:
    """Brute force over rows {id: (pair, image, text)}: sets of ids and float64 scores."""
    candidates = [
        (row_id, row[1] if by == "image" else row[2])
        for row_id, row in rows.items()
        if keep(row[0]) and row_id not in excluded and (by == "image" or row[2] is not None)
    ]
    scores = np.full((len(queries), k), -np.inf)
    best = []
    for i, query in enumerate(queries.double()):
        ranked = sorted(((float(query @ vector.double()), row_id) for row_id, vector in candidates), reverse=True)[:k]
        scores[i, : len(ranked)] = [score for score, _ in ranked]
        best.append([row_id for _, row_id in ranked])
    return best, scores


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=3, max_size=7))
def test_any_sequence_equals_brute_force(steps, tmp_path_factory, base, encoder, pairs):
    path = tmp_path_factory.mktemp("sequence") / "m"
    shutil.copytree(base, path)
    memory = Memory.open(path)
    queries = encoder.encode_texts(["a photo of red", "view number 3", "picture green"])

    def rows_now() -> dict:
        ids = memory.ids()
        keys = memory.take(ids, ["key"])["key"].to_pylist()
        images, texts, has = memory.embeddings(), memory.embeddings(of="text"), memory.has_text()
        by_key = {pair.key: pair for pair in pairs}
        return {
            int(i): (by_key[k], images[n], texts[n] if has[n] else None)
            for n, (i, k) in enumerate(zip(ids, keys, strict=True))
        }

    live = {pair.key for pair in pairs[:20]}
    for step in [*steps, ("search", "image", 7, None), ("search", "text", 7, "label = 'odd'")]:
        if step[0] == "add":
            chosen = pairs[step[1] : step[1] + step[2]]
            assert memory.add(chosen, encoder).rows == len({pair.key for pair in chosen} - live)
            live |= {pair.key for pair in chosen}
        elif step[0] == "replace":
            chosen = pairs[step[1] : step[1] + step[2]]
            known = {pair.key for pair in chosen} & live
            assert memory.add(chosen, encoder, known="replace").replaced == len(known)
            live |= {pair.key for pair in chosen}
        elif step[0] == "compact":
            memory.compact()
        elif step[0] == "delete":
            gone = {pair.key for pair in pairs if pair.key in live and FILTERS[step[1]](pair)}
            assert memory.delete(step[1]) == len(gone)
            live -= gone
        elif step[0] == "index":
            memory.index(step[1])
        else:
            rows = rows_now()
            assert {row[0].key for row in rows.values()} == live
            hits = memory.search(queries, by=step[1], k=step[2], where=step[3])
            best, scores = expected(rows, queries, step[1], step[2], FILTERS[step[3]], set())
            np.testing.assert_allclose(hits.scores, scores, atol=1e-5)
            for found, wanted in zip(hits.ids, best, strict=True):
                assert found[: len(wanted)].tolist() == wanted
                assert (found[len(wanted) :] == -1).all()
    assert memory.verify() == []


@pytest.fixture(scope="module")
def memory(tmp_path_factory, encoder, pairs):
    return Memory.create(tmp_path_factory.mktemp("search") / "m", encoder, pairs)


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw", "ivf"])
def test_exclusion_for_each_query(memory, encoder, pairs, kind):
    memory.index(kind)
    queries = memory.embeddings()[:5]
    exclude = [[0, 3], [1], [], [3, 999, -1], np.arange(55)]
    hits = memory.search(queries, k=10, exclude=exclude)
    rows = {i: (pairs[i], vector, None) for i, vector in enumerate(memory.embeddings())}
    for i in range(5):
        best, scores = expected(rows, queries[i : i + 1], "image", 10, FILTERS[None], {int(j) for j in exclude[i]})
        assert hits.ids[i][hits.ids[i] >= 0].tolist() == best[0]
        np.testing.assert_allclose(hits.scores[i : i + 1], scores, atol=1e-5)
    hidden = np.array([7, 2, 0, 999])
    for where, keeps in ((None, FILTERS[None]), ("label = 'odd'", FILTERS["label = 'odd'"])):
        hits = memory.search(queries, k=10, exclude=exclude, hidden=hidden, where=where)
        for i in range(5):
            banned = {*hidden.tolist(), *(int(j) for j in exclude[i])}
            best, scores = expected(rows, queries[i : i + 1], "image", 10, keeps, banned)
            assert hits.ids[i][hits.ids[i] >= 0].tolist() == best[0]


def test_many_hidden_rows_widen_no_search(tmp_path, encoder, pairs, monkeypatch):
    """What 24,000 ids each query must not get once was: as many more candidates of each."""
    memory = Memory.create(tmp_path / "m", encoder, pairs)
    memory.index("ivf")
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 0)
    asked = []
    nearest = ListIndex.nearest
    monkeypatch.setattr(ListIndex, "nearest", lambda *a: asked.append(a[3]) or nearest(*a))
    hidden = np.arange(0, 60, 2)
    visible = without(memory, hidden)
    hits = visible.search(memory.embeddings()[:20], k=5, exclude=[[i] for i in range(20)])
    assert asked == [6]
    assert (hits.ids[:, 0] != np.arange(20)).all() and (hits.ids % 2 == 1).all()
    assert (without(visible, np.array([1])).search(memory.embeddings()[:20], k=29).ids != 1).all()


def test_queries_need_not_be_normalised_nor_two_dimensional(memory):
    query = memory.embeddings()[4]
    assert memory.search(query * 7, k=1).ids.tolist() == [[4]]
    assert memory.search(query.numpy() * 7, k=1).scores[0, 0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": torch.ones(2, 5)}, "shape \\(2, 5\\), the memory needs \\(n, 16\\)"),
        ({"queries": torch.full((1, 16), torch.nan)}, "NaN"),
        ({"queries": "a red bus"}, "no array of numbers"),
        ({"k": 0}, "at least one"),
        ({"by": "sound"}, "by image or by text"),
        ({"exclude": [[1], [2]]}, "one for each"),
    ],
)
def test_wrong_questions_are_told(memory, arguments, message):
    options = {"queries": torch.ones(1, 16), **arguments}
    with pytest.raises(MemoryStoreError, match=message):
        memory.search(options.pop("queries"), **options)


def test_take_and_embeddings_follow_the_ids(memory, pairs):
    ids = [7, 3, 7, 59]
    assert memory.take(ids, ["key"])["key"].to_pylist() == [pairs[i].key for i in ids]
    assert torch.equal(memory.embeddings(ids), memory.embeddings()[ids])
    square = memory.embeddings(np.array([[1, -1], [2, 4]]), of="text")
    assert square.shape == (2, 2, 16)
    assert square[0, 1].norm() == 0
    assert torch.equal(square[1, 0], memory.embeddings(of="text")[2])
    for read in (lambda: memory.take([60], ["key"]), lambda: memory.embeddings([60])):
        with pytest.raises(MemoryStoreError, match="has no row 60"):
            read()
    with pytest.raises(MemoryStoreError, match="no column price"):
        memory.take([1], ["price"])


def test_a_reader_keeps_its_version_until_it_refreshes(tmp_path, encoder, pairs):
    writer = Memory.create(tmp_path / "m", encoder, pairs[:30])
    reader = Memory.open(tmp_path / "m")
    writer.delete("key = 'p004'")
    writer.add(pairs[30:], encoder)
    writer.index("flat")
    query = reader.embeddings([4])
    assert reader.search(query, k=1).ids.tolist() == [[4]]
    assert len(reader) == 30
    reader.refresh()
    assert reader.search(query, k=1).ids.tolist() != [[4]]
    assert len(reader) == 59
