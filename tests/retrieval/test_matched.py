from retroclip.retrieval import matched_pairs
from retroclip.tasks import Task

TASK = Task("animals", classes=["cat", "horse"], templates=["{}"])


def test_matched_pairs_name_exactly_one_class_and_are_capped():
    captions = [("cat",)] * 30 + [("cat and horse",)] + [("horse",)] * 3 + [()]
    rows, labels = matched_pairs(captions, TASK, per_class=10, seed=1)
    assert (labels == 0).sum() == 10 and rows[labels == 1].sort().values.tolist() == [31, 32, 33]
    assert set(rows[labels == 0].tolist()) <= set(range(30))
    assert rows.tolist() == matched_pairs(captions, TASK, per_class=10, seed=1)[0].tolist()
    assert rows.tolist() != matched_pairs(captions, TASK, per_class=10, seed=2)[0].tolist()


def test_no_pair_names_a_class():
    rows, labels = matched_pairs([("grass",), ()], TASK)
    assert len(rows) == len(labels) == 0 and rows.dtype == labels.dtype
