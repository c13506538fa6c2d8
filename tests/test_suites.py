"""A suite over two small data sets: one file each, and nothing done twice."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.cli import main
from retroclip.encoders import load
from retroclip.errors import SourceError
from retroclip.evaluation.result import find_results
from retroclip.suites import run_suite
from retroclip.tasks import load_suite


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_encoded):
    """Two data sets with splits, a retrieval set, a broken one, and the suite that names them."""
    folder = tmp_path_factory.mktemp("suite")
    for name, classes in (("pets", ["cat", "dog"]), ("shapes", ["circle", "star", "cross"])):
        rows = [(split, k, label) for split in ("train", "val") for k in range(6) for label in classes]
        images = [make_encoded(100 * len(classes) + number) for number in range(len(rows))]
        table = {"image": images, "label": [row[2] for row in rows], "split": [row[0] for row in rows]}
        pq.write_table(pa.table(table | {"caption": [f"a {row[2]}" for row in rows]}), folder / f"{name}.parquet")
        (folder / f"{name}.yaml").write_text(f"classes: [{', '.join(classes)}]\n")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    entries = [
        {"task": str(folder / "pets.yaml"), "dataset": "pets.parquet#val", "train": "pets.parquet#train"},
        {"task": str(folder / "shapes.yaml"), "dataset": "shapes.parquet#val", "train": "shapes.parquet#train"},
        {"task": "image-text-retrieval", "dataset": "pets.parquet#val"},
        {"task": "cifar10", "dataset": "broken.parquet"},
        {"task": "food101"},
    ]
    (folder / "mine.yaml").write_text(json.dumps({"tasks": entries}))
    return folder


def test_one_file_each_and_nothing_twice(data, tiny_model, tmp_path, monkeypatch):
    encoder, suite, told = load(tiny_model(0)), load_suite(data / "mine.yaml"), []
    results = run_suite(encoder, suite, data, tmp_path, methods=["zero-shot"], tell=told.append)
    assert told[0] == f"not in {data}, and left out: food101"
    assert [r.task for r in results] == ["pets", "shapes", "image-text-retrieval", "cifar10"]
    assert results[3].error and "can't be read as parquet" in results[3].error
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 4 and all(encoder.fingerprint[:8] in file.name for file in files)
    kept = json.loads(files[0].read_text())[0]
    assert {"fingerprint", "data_hash", "templates", "metric", "seed", "versions", "precision"} <= set(kept)
    told.clear()
    again = run_suite(encoder, suite, data, tmp_path, methods=["zero-shot"], tell=told.append)
    assert [line.partition(":")[0] for line in told] == [f"not in {data}, and left out", "cifar10, zero-shot"]
    assert [r.value for r in again] == [r.value for r in results]
    # Another model, or other seeds, are measured anew, in files of their own where the model differs.
    run_suite(load(tiny_model(1)), suite, data, tmp_path, methods=["zero-shot"], tell=told.append)
    assert len(list(tmp_path.glob("*.json"))) == 8


def test_probes_in_a_suite_and_reports_of_it(data, tiny_model, tmp_path, capsys):
    out = tmp_path / "results"
    call = ["evaluate", str(tiny_model(0)), "--suite", str(data / "mine.yaml"), "--data", str(data), "--out", str(out)]
    assert main([*call, "--method", "zero-shot,linear-probe-text", "--shots", "2", "--seeds", "2"]) == 1
    err = capsys.readouterr().err
    assert "failed" in err and "food101" in err
    probes = [r for r in find_results([out]) if r.method == "linear-probe-text" and r.error is None]
    assert [(r.task, r.seeds, r.options["shots"]) for r in probes] == [("pets", [0, 1], 2), ("shapes", [0, 1], 2)]
    for name in ("all.html", "all.md", "all.csv", "all.svg"):
        assert main(["report", str(out), "--out", str(tmp_path / name)]) == 0
    assert "mean of 2" in (tmp_path / "all.md").read_text()
    assert "All tasks" in (tmp_path / "all.html").read_text()
    assert "var(--" not in (tmp_path / "all.svg").read_text()
    assert (tmp_path / "all.csv").read_text().count("\n") == 1 + len(find_results([out]))
    capsys.readouterr()
    assert main(["report", str(out), "--out", str(tmp_path / "all.pdf")]) == 1
    assert "ends in .html, .md, .csv, .svg" in capsys.readouterr().err
    assert main(["report", str(data), "--out", str(tmp_path / "all.md")]) == 1
    assert "no results in" in capsys.readouterr().err


def test_no_data_is_one_line(data, tiny_model, tmp_path):
    with pytest.raises(SourceError, match="has no data of suite 'kornblith-12'"):
        run_suite(load(tiny_model(0)), load_suite("kornblith-12"), tmp_path, tmp_path / "out", tell=print)


@pytest.mark.parametrize(
    "line", ["evaluate builtin", "evaluate builtin --suite elevater-20", "evaluate builtin a b --out c"]
)
def test_wrong_usage(line, capsys):
    assert main(line.split()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
