"""Answers to one's own images: a CSV, with a memory, calibrated, and where images can't be read."""

import csv
import io


def test_predict(run, model, task, photos, tmp_path):
    (photos / "broken.jpg").write_text("not a picture")
    predicted = run(f"predict {model} {task} photos")
    assert predicted.status == 0
    table = predicted.table
    assert list(table[0]) == ["file", "class", "probability"]
    assert len(table) == 21
    by_file = {row["file"]: row for row in table}
    assert by_file["photos/broken.jpg"] == {"file": "photos/broken.jpg", "class": "", "probability": ""}
    assert {row["class"] for row in table} <= {"cat", "dog", ""}
    assert all(0.5 <= float(row["probability"]) <= 1 for row in table if row["class"])
    assert "photos/broken.jpg: not an image" in predicted.err
    assert "1 of 21 images could not be read" in predicted.err


def test_predict_none_below_the_confidence_to_a_file(run, model, task, photos, tmp_path):
    assert run(f"predict {model} {task} photos/00.jpg photos/01.jpg --min-confidence 1 --out answers.csv").out == ""
    table = list(csv.DictReader(io.StringIO((tmp_path / "answers.csv").read_text())))
    assert [row["class"] for row in table] == ["none", "none"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["animals.yaml", "answers.csv"]


def test_predict_with_a_memory(run, model, memory, task):
    predicted = run(f"predict {model} {task} photos --memory mem")
    assert len(predicted.table) == 20 and predicted.line.startswith("answered by stacked-linear, the default")


def test_predict_calibrated_by_images_that_the_memory_does_not_know(run, model, memory, task, calibrating):
    predicted = run(f"predict {model} {task} photos --memory mem --method tip-adapter --calibrate {calibrating}")
    told = predicted.err.splitlines()
    assert told[0] == "12 of the memory's 20 pairs show labelled images and are left out"
    assert told[1].startswith("calibrated on 24 images: accuracy ")
    assert len(told) == 2 and len(predicted.table) == 20
    assert run("memory info mem --json").out.count('"rows": 20') == 1
    assert run(f"fuse mem --model {model} --kind mean --out fused -k 3").status == 0
    again = run(f"predict fused {task} photos --calibrate {calibrating}")
    assert again.err.splitlines()[0] == told[0]


def test_predict_calibrated_without_a_memory_to_an_error_that_is_not_kept(run, model, task, calibrating, tmp_path):
    for old, new in (
        ("cat", "was cat"),
        ("dog", "cat"),
        ("was cat", "dog"),
    ):  # the surest answer is right unless swapped
        (tmp_path / calibrating / old).rename(tmp_path / calibrating / new)
    predicted = run(f"predict {model} {task} photos --calibrate {calibrating} --max-error 0")
    told = predicted.err.splitlines()
    assert len(told) == 2 and told[0].startswith("calibrated on 24 images")
    assert told[1] == "no probability keeps the error on those images within 0 %: every class is `none`"
    assert {row["class"] for row in predicted.table} == {"none"}


def test_predict_when_no_image_can_be_read(run, model, task, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    assert run(f"predict {model} {task} text.jpg").status == 1
