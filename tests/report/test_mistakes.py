"""Error analysis in the report: rows beside zero-shot's, images of each confusion, counts of what changed."""

import numpy as np

from retroclip.evaluation import Samples
from retroclip.evaluation.result import Confusion
from retroclip.report import Report, collect_confused, count_changes, render
from retroclip.report.mistakes import Changes, confusion_rows, worst_classes

LABELS = [0, 0, 0, 1, 1, 2]
SAMPLES = Samples("pets", "val", [*"abcdef"], [b"%d" % i for i in range(6)], np.array(LABELS), ["cat", "dog", "pug"])


def both(make_result, make_outcome):
    base = make_result(
        "zero-shot", 0.5, outcomes=[make_outcome(LABELS, [1, 1, 0, 1, 2, 1])],
        per_class={"cat": 1 / 3, "dog": 0.5, "pug": 0.0}, class_counts={"cat": 3, "dog": 2, "pug": 1},
        confusions=[Confusion(truth="cat", predicted="dog", count=2, of=3)],
    )  # fmt: skip
    tuned = make_result(
        "primed", 0.6, outcomes=[make_outcome(LABELS, [0, 1, 1, 1, 1, 0])],
        per_class={"cat": 1 / 3, "dog": 1.0, "pug": 0.0}, class_counts={"cat": 3, "dog": 2, "pug": 1},
        confusions=[
            Confusion(truth="cat", predicted="dog", count=2, of=3),
            Confusion(truth="pug", predicted="cat", count=1, of=1),
        ],
    )  # fmt: skip
    return base, tuned


def test_rows_stand_beside_zero_shots(make_result, make_outcome):
    base, tuned = both(make_result, make_outcome)
    rows = confusion_rows(tuned, base)
    assert [(r.truth, r.predicted, r.count, r.of, r.before) for r in rows] == [
        ("cat", "dog", 2, 3, 2),
        ("pug", "cat", 1, 1, None),
    ]
    worst = worst_classes(tuned, base)
    # dog has no mistake, so that it is not among them.
    assert [(w.name, w.value, w.before, w.taken_for) for w in worst] == [
        ("pug", 0.0, 0.0, "cat"),
        ("cat", 1 / 3, 1 / 3, "dog"),
    ]
    assert [r.before for r in confusion_rows(tuned, None)] == [None, None]


def test_what_changed_is_counted(make_result, make_outcome):
    # 0 put right, 1 stays wrong, 2 spoilt, 3 stays right, 4 put right, 5 stays wrong
    assert count_changes(*both(make_result, make_outcome)) == Changes(6, 2, 1, 1, 2)


def test_images_of_a_confusion_are_its_own(make_result, make_outcome):
    _, tuned = both(make_result, make_outcome)
    cats, pug = collect_confused(tuned, SAMPLES)
    assert (cats.truth, cats.predicted, cats.count, cats.of) == ("cat", "dog", 2, 3)
    assert [image for image, _ in cats.images] == [b"1", b"2"] and cats.images[0][1] == 0.75
    assert (pug.truth, pug.predicted, [image for image, _ in pug.images]) == ("pug", "cat", [b"5"])
    assert len(collect_confused(tuned, SAMPLES, pairs=1, images=1)[0].images) == 1


def test_the_page_shows_them(make_result, make_outcome):
    base, tuned = both(make_result, make_outcome)
    page = render(
        Report(
            results=[base, tuned], examples_method="primed", changes=count_changes(base, tuned),
            confused=collect_confused(tuned, SAMPLES),
        )
    )  # fmt: skip
    for part in ("Which class is taken for which", "Worst classes", "pug, taken for cat", "2 of 3 images"):
        assert part in page, part
    alone = render(Report(results=[base]))
    assert "Which class is taken for which" in alone and "not among zero-shot" not in alone
    assert "Worst classes" not in render(Report(results=[make_result("zero-shot", 1.0)]))
