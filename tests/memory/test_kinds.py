"""Every kind of index: recall, filters, deleted and newer rows, extension."""

import numpy as np
import pytest
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory import lists
from retroclip.memory.exact import exact_search
from retroclip.memory.index import KeyIndex, OpenIndex
from retroclip.memory.kinds import FaissIndex, build_faiss
from retroclip.memory.lists import ListIndex, build_lists, extend_lists
from retroclip.memory.measure import Sample, own_samples, recall_of, tuned
from retroclip.memory.rows import HalfRows, HeldRows, JoinedRows
from retroclip.memory.search import Keys, search_keys

ROWS, DIM = 20_000, 32
IDS = np.arange(ROWS) * 3 + 5


def unit(count: int, seed: int) -> torch.Tensor:
    """Rows around 60 centres, as those of images are."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, DIM))
    rows = centres[generator.integers(0, 60, count)] + 0.7 * generator.standard_normal((count, DIM))
    rows[:, DIM // 2 :] *= 0.2
    return torch.nn.functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=1)


@pytest.fixture(scope="module")
def rows() -> HalfRows:
    return HalfRows(unit(ROWS, 1).half())


@pytest.fixture(scope="module", params=["ivf", "ivf16", "hnsw", "OPQ16_32,IVF32_HNSW32,PQ16x4", "IVF16,SQ8"])
def opened(request, rows, tmp_path_factory):
    kind = request.param
    if kind.startswith("ivf"):
        path = tmp_path_factory.mktemp("ivf") / "index"
        build_lists(path, rows, lists=64, dims=16 if kind == "ivf16" else DIM)
        index = ListIndex(path)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("retroclip.memory.kinds.OPQ_ROUNDS", 1)
            patch.setattr("retroclip.memory.kinds.TRAIN_ROWS", 8)
            index = FaissIndex(build_faiss("HNSW32" if kind == "hnsw" else kind, rows))
    samples = {"own": Sample.of(rows), "cross": Sample.of(HeldRows(unit(300, 2))).foreign()}
    parameters, recall = tuned(index, rows, samples, 0.95)
    return OpenIndex(KeyIndex(kind, 1, ROWS, int(IDS[-1]), parameters, recall), index, IDS, rows)


def everything(opened: OpenIndex, kept=None) -> Keys:
    places = np.arange(ROWS) if kept is None else kept
    return Keys(IDS[places], HeldRows(opened.rows.gather(places)), places)


def test_measured_recall_is_that_of_fresh_queries(opened):
    assert opened.entry.recall["own"]["10"] >= 0.95
    assert opened.entry.recall["cross"]["10"] >= 0.95
    queries = unit(300, 3)
    keys = everything(opened)
    hits = search_keys(queries, keys, 10, opened=opened)
    exact, scores = exact_search(queries, keys.rows, keys.ids, 10)
    assert recall_of(scores, hits.scores) >= 0.94
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    right = hits.ids == exact
    np.testing.assert_allclose(hits.scores[right], scores[right], atol=1e-5)


def test_rows_that_lie_as_near_are_found_as_well():
    """Of captions that are the same text, which labels of classes are, an exact index had a recall of 0.3."""
    exact = np.array([[0.9, 0.5], [0.8, -np.inf]], np.float32)
    assert recall_of(exact, exact) == recall_of(exact, np.array([[0.5, 0.9], [0.8, 0.1]], np.float32)) == 1
    assert recall_of(exact, np.array([[0.9, 0.4], [-np.inf, -np.inf]], np.float32)) == 0.25
    words = HalfRows(unit(5, 11).half().repeat(40, 1))
    for recall in tuned(FaissIndex(build_faiss("Flat", words)), words, own_samples(words), 0.95)[1].values():
        assert recall == {"1": 1, "10": 1, "20": 1}


@pytest.mark.parametrize("share", [0.5, 0.25, 0.06, 0.001])
def test_k_is_filled_under_filters(opened, share, monkeypatch):
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 20)
    allowed = np.sort(np.random.default_rng(4).choice(IDS, int(share * ROWS), replace=False))
    queries = unit(200, 5)
    keys = everything(opened)
    hits = search_keys(queries, keys, 15, opened=opened, allowed=allowed)
    kept = keys.chosen(np.searchsorted(IDS, allowed))
    exact = exact_search(queries, kept.rows, kept.ids, 15)[1]
    assert (hits.ids >= 0).all()
    assert np.isin(hits.ids, allowed).all()
    assert recall_of(exact[:, :10], hits.scores[:, :10]) >= 0.94


def test_k_is_filled_when_a_filter_follows_the_lists(opened, monkeypatch):
    """The rows that match lie far from the query: no list or path that leads to them is looked into."""
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 20)
    keys = everything(opened)
    query = unit(1, 6)
    far = (opened.rows.gather(np.arange(ROWS)) @ query[0]).argsort()[: ROWS // 3].sort().values.numpy()
    hits = search_keys(query, keys, 10, opened=opened, allowed=IDS[far])
    assert (hits.ids >= 0).all()
    assert np.isin(hits.ids, IDS[far]).all()


@pytest.mark.parametrize("groups", [30, 6])
def test_a_filter_of_another_kind_than_the_queries_costs_no_recall(opened, groups, monkeypatch):
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 20)
    centres = torch.from_numpy(np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32))
    centres[:, DIM // 2 :] *= 0.2
    centres = torch.nn.functional.normalize(centres, dim=1)
    keys, queries = everything(opened), unit(300, 7)
    kept = np.flatnonzero((opened.rows.gather(np.arange(ROWS)) @ centres.T).argmax(dim=1).numpy() < groups)
    queries = queries[(queries @ centres.T).argmax(dim=1) >= groups]
    exact = exact_search(queries, keys.chosen(kept).rows, IDS[kept], 10)[1]
    hits = search_keys(queries, keys, 10, opened=opened, allowed=IDS[kept])
    assert recall_of(exact, hits.scores) >= 0.94


@pytest.mark.parametrize("allowed", [None, IDS[: ROWS // 2]])
def test_excluding_what_lies_around_a_query_costs_no_recall(opened, allowed, monkeypatch):
    """As many near copies as a sample may have: what is left of the rows around it is not what lies nearest."""
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 20)
    keys, queries = everything(opened), unit(40, 12)
    exclude = list(exact_search(queries, keys.rows, keys.ids, 300)[0])
    hits = search_keys(queries, keys, 10, opened=opened, exclude=exclude, allowed=allowed)
    kept = keys if allowed is None else keys.chosen(np.arange(ROWS // 2))
    exact = exact_search(queries, kept.rows, kept.ids, 10, exclude)[1]
    assert recall_of(exact, hits.scores) >= 0.94
    assert not any(np.isin(row, own).any() for row, own in zip(hits.ids, exclude, strict=True))


def test_many_neighbours_are_found_as_surely_as_few(opened):
    keys, queries = everything(opened), unit(100, 13)
    hits = search_keys(queries, keys, 600, opened=opened)
    assert recall_of(exact_search(queries, keys.rows, keys.ids, 600)[1], hits.scores) >= 0.94


def test_newer_rows_dont_stand_in_for_older_ones_that_a_filter_keeps(opened, monkeypatch):
    """Ten newer rows fill all places of a query that meets no older one it may get, though these lie nearer."""
    monkeypatch.setattr("retroclip.memory.search.EXACT_LEFT", 20)
    query = unit(1, 6)
    order = (opened.rows.gather(np.arange(ROWS)) @ query[0]).argsort().numpy()
    kept, newer = np.sort(order[ROWS // 4 : ROWS // 2]), opened.rows.gather(order[:10])
    ids = np.r_[IDS, IDS[-1] + 1 + np.arange(10)]
    every = HeldRows(opened.rows.gather(np.arange(ROWS)))
    keys = Keys(ids, JoinedRows(every, HeldRows(newer)), np.arange(ROWS))
    allowed = np.r_[IDS[kept], ids[-10:]]
    hits = search_keys(query, keys, 10, opened=opened, allowed=allowed)
    assert np.isin(hits.ids, IDS[kept]).all()


def test_deleted_rows_are_not_found_and_newer_ones_are(opened):
    kept = np.flatnonzero(np.arange(ROWS) % 3)
    newer = unit(30, 7)
    ids = np.r_[IDS[kept], IDS[-1] + 1 + np.arange(30)]
    live = Keys(ids, JoinedRows(HeldRows(opened.rows.gather(kept)), HeldRows(newer)), kept)
    queries = torch.cat([newer[:5], opened.rows.gather(np.arange(0, 30, 3))])
    hits = search_keys(queries, live, 10, opened=opened)
    exact = exact_search(queries, live.rows, live.ids, 10)[1]
    assert recall_of(exact, hits.scores) >= 0.94
    assert np.isin(hits.ids, ids).all()
    assert hits.ids[:5, 0].tolist() == ids[-30:-25].tolist()


def test_lists_extended_answer_like_lists_built_with_the_same_centroids(tmp_path, rows):
    part = HalfRows(rows._matrix[: ROWS // 2])
    build_lists(tmp_path / "half", part, lists=64, dims=DIM)
    kept = np.flatnonzero(np.arange(ROWS // 2) % 5)
    old = ListIndex(tmp_path / "half")
    extend_lists(tmp_path / "more", old, kept, HalfRows(rows._matrix[ROWS // 2 :]))
    more = ListIndex(tmp_path / "more")
    places = np.r_[kept, np.arange(ROWS // 2, ROWS)]
    assert sorted(more.places.tolist()) == list(range(len(places)))
    lists.write_lists(tmp_path / "anew", old.coder, old.centroids, HalfRows(rows._matrix[torch.from_numpy(places)]))
    anew = ListIndex(tmp_path / "anew")
    assert all(np.array_equal(more.file[name], anew.file[name]) for name in ("places", "offsets", "codes"))


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_lists_in_every_number_format(opened, rows, monkeypatch, int8, bf16):
    if not isinstance(opened.index, ListIndex):
        pytest.skip("only lists")
    monkeypatch.setattr(lists, "fast_int8", lambda: int8)
    monkeypatch.setattr(lists, "fast_bf16", lambda: bf16)
    queries = unit(50, 8)
    found = opened.index.nearest(queries, rows, 10, {"nprobe": 64, "rerank": 16})[1]
    exact = exact_search(queries, rows.gather(np.arange(ROWS)), np.arange(ROWS), 10)[1]
    assert recall_of(exact, found) >= 0.98


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVFx", r"'IVFx' of dimension 32 \(could not parse .*give auto"),
        ("IVF4096,Flat", "can't be trained on 100 rows"),
    ],
)
def test_impossible_factories_are_told_in_one_line(factory, message):
    with pytest.raises(MemoryStoreError, match=message) as raised:
        build_faiss(factory, HalfRows(unit(100, 9).half()))
    assert "\n" not in str(raised.value)


def test_unseen_queries_lie_halfway_between_stored_ones_and_are_no_rows():
    rows = HeldRows(unit(40, 3))
    samples = own_samples(rows)
    own, unseen = samples["own"], samples["unseen"]
    for number in range(40):
        total = own.queries[number] + own.queries[(number - 20) % 40]
        torch.testing.assert_close(unseen.queries[number], total / total.norm())
    assert (unseen.places == -1).all() and (own.places >= 0).all()


def test_tuning_keeps_no_copy_of_the_rows(tmp_path, rows, monkeypatch):
    build_lists(tmp_path / "index", rows, lists=64, dims=DIM)
    samples = own_samples(rows)
    expected = {}
    for name, sample in samples.items():
        found, _ = exact_search(sample.queries, HeldRows(rows.gather(np.arange(ROWS))), np.arange(ROWS), 21)
        kept = [[place for place in line if place != own][:10] for line, own in zip(found, sample.places, strict=True)]
        expected[name] = np.array(kept)
    monkeypatch.setattr(HalfRows, "coarse", lambda self: pytest.fail("all rows were copied"))
    index = ListIndex(tmp_path / "index")
    parameters, recall = tuned(index, rows, samples, 0.95)
    for name, sample in samples.items():
        found = index.nearest(sample.queries, rows, 11, parameters)[0]
        pairs = zip(found, sample.places, expected[name], strict=True)
        shares = [np.isin(wanted, [place for place in line if place != own][:10]).mean() for line, own, wanted in pairs]
        assert recall[name]["10"] == pytest.approx(np.mean(shares), abs=0.002)
