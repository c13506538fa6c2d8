"""A suite over two small data sets: one file each, and nothing done twice."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retroclip.cli import main
from retroclip.encoders import load
from retroclip.errors import SourceError
from retroclip.evaluation.result import find_results
from retroclip.memory import Memory
from retroclip.suites import run_suite
from retroclip.tasks import load_suite
from retroclip.tasks.suite import Entry, Suite


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


def test_without_a_named_method_each_entry_takes_its_default(data, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("retroclip.methods.default.LEAST_NAMING", 12)
    encoder, told = load(tiny_model(0)), []
    memory = Memory.create(tmp_path / "mem", encoder, [f"{data / 'pets.parquet'}#train"])
    given = {"memory": memory, "seeds": [0], "tell": told.append}
    results = run_suite(encoder, load_suite(data / "mine.yaml"), data, tmp_path / "out", **given)
    assert [r.method for r in results[:3]] == ["stacked-linear", "primed", "mean-neighbours"]
    assert [r.error for r in results[:3]] == [None] * 3
    alone = run_suite(encoder, load_suite(data / "mine.yaml"), data, tmp_path / "out", tell=told.append)
    assert {r.method for r in alone} == {"zero-shot"}


def test_the_default_is_that_of_the_memory_without_the_evaluated_images(data, tiny_model, tmp_path, monkeypatch):
    """All pairs that name a class show evaluated images: stacked-linear would have nothing to learn from."""
    monkeypatch.setattr("retroclip.methods.default.LEAST_NAMING", 1)
    encoder, told = load(tiny_model(0)), []
    memory = Memory.create(tmp_path / "mem", encoder, [f"{data / name}.parquet#val" for name in ("pets", "shapes")])
    suite = Suite(name="one", tasks=[Entry(task=str(data / "pets.yaml"), dataset="pets.parquet#val")])
    for _ in range(2):
        (result,) = run_suite(encoder, suite, data, tmp_path / "out", memory=memory, seeds=[0], tell=told.append)
        assert (result.error, result.method, result.excluded_near_duplicates > 11) == (None, "primed", True)
    assert len(told) == 1
    assert [file.name.split("--")[-2] for file in (tmp_path / "out").iterdir()] == ["default"]


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


def test_another_train_file_is_learnt_from_wherever_one_stands(data, tiny_model, tmp_path, monkeypatch):
    own = tmp_path / "data"
    own.mkdir()
    table = pq.read_table(data / "pets.parquet")
    for split in ("train", "val"):
        pq.write_table(table.filter(pc.equal(table["split"], split)), own / f"{split}.parquet")
    suite = Suite(name="one", tasks=[Entry(task=str(data / "pets.yaml"), dataset="val.parquet", train="train.parquet")])
    encoder, told = load(tiny_model(0)), []
    monkeypatch.chdir(tmp_path)
    given = {"methods": ["linear-probe-text"], "seeds": [0], "tell": told.append}
    (before,) = run_suite(encoder, suite, own, tmp_path / "out", **given)
    run_suite(encoder, suite, own, tmp_path / "out", **given)
    assert len(told) == 1
    pq.write_table(pq.read_table(own / "train.parquet")[:8], own / "train.parquet")
    (after,) = run_suite(encoder, suite, own, tmp_path / "out", **given)
    assert len(told) == 2 and after.options["train_hash"] != before.options["train_hash"]
    # Of another number of shots both results stand; zero-shot, which has no use for them, is measured once.
    given["methods"] = ["zero-shot", "linear-probe-text"]
    for shots in (1, 2):
        run_suite(encoder, suite, own, tmp_path / "out", shots=shots, **given)
    names = [file.stem.split("--")[-3:-1] for file in sorted((tmp_path / "out").glob("*.json"))]
    assert sorted(each[-1] for each in names) == ["1-shot", "2-shot", "linear-probe-text", "zero-shot"]
    assert len(told) == 5


def test_results_from_before_entries_had_more_fields_are_found(data, tiny_model, tmp_path):
    entry = Entry(task=str(data / "pets.yaml"), dataset="pets.parquet#val")
    encoder, told = load(tiny_model(0)), []
    suite = Suite(name="one", tasks=[entry])
    (kept,) = run_suite(encoder, suite, data, tmp_path, tell=told.append)
    assert kept.options["suite"]["entry"] == {
        "task": entry.task, "dataset": "pets.parquet#val", "train": None, "where": None,
    }  # fmt: skip
    assert "reduce_zero_label" not in kept.options["suite"]["task"]
    (file,) = tmp_path.glob("*.json")
    assert file.name.endswith(f"-pets.yaml--pets--zero-shot--{encoder.fingerprint[:8]}.json")


def test_entries_with_protocol_metric_and_options(data, tiny_model, tmp_path):
    task = str(data / "pets.yaml")
    rows = [
        {"protocol": "typographic-attack", "options": {"height": 0.3}},
        {"protocol": "typographic-attack", "options": {"height": 0.2}},
        {"metric": "mean-per-class"},
        {"where": "label = 'cat'"},
        {},
        {"protocol": "typographic-attack", "train": "pets.parquet#train"},
        {"protocol": "typographic-attack", "metric": "top1"},
        {"options": {"height": 0.2}},
        {"protocol": "depth"},
    ]
    entries = [Entry(task=task, dataset="pets.parquet#val", **row) for row in rows]
    encoder, suite, told = load(tiny_model(0)), Suite(name="all", tasks=entries), []
    results = run_suite(encoder, suite, data, tmp_path, seeds=[0, 1], tell=told.append)
    assert len(list(tmp_path.glob("*.json"))) == len(rows) == len(told)
    assert [r.options.get("height") for r in results[:2]] == [0.3, 0.2] and results[0].seeds == [0, 1]
    assert [r.metric for r in results[:5]] == ["attacked-top1"] * 2 + ["mean-per-class", "top1", "top1"]
    assert [r.n for r in results[2:5]] == [12, 6, 12]
    assert [r.error for r in results[5:8]] == [
        "`train` of the suite's entry is not for typographic-attack: leave it out",
        "`metric` of the suite's entry is not for typographic-attack: leave it out",
        "`options` of the suite's entry is not for classification: leave it out",
    ]
    assert "no protocol is called 'depth'" in results[8].error
    told.clear()
    run_suite(encoder, suite, data, tmp_path, seeds=[0, 1], tell=told.append)
    assert len(told) == 4  # what failed is tried again


def test_a_trained_segmenter_in_a_suite(tiny_model, make_encoded, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.uint8([0, 1]), (32, 24))).save(buffer, "PNG")
    for name, seeds in (("train", range(4)), ("val", range(4, 6))):
        columns = {"image": [make_encoded(i) for i in seeds], "mask": [buffer.getvalue()] * len(seeds)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    (tmp_path / "t.yaml").write_text("classes: [sky, road]\nprotocol: segmentation\n")
    options = {"size": 32, "epochs": 1}
    entry = Entry(task=str(tmp_path / "t.yaml"), dataset="val.parquet", train="train.parquet", options=options)
    suite = Suite(name="one", tasks=[entry])
    (result,) = run_suite(load(tiny_model(0)), suite, tmp_path, tmp_path / "out", seeds=[0, 3], tell=print)
    assert result.error is None and (result.method, result.seeds) == ("maskclip+", [0, 3])
    assert result.options["train"] == "train" and result.sd is not None
    assert "zero-shot-miou" in result.metrics
    assert result.options["suite"]["task"]["reduce_zero_label"] is False  # it decides what masks mean


def test_what_is_not_there_is_passed_over_and_a_bad_task_stops_no_other(data, tiny_model, tmp_path):
    (tmp_path / "bad.yaml").write_text("classes: 3\n")
    names = [
        (tmp_path / "bad.yaml", "pets.parquet#val"),
        (data / "pets.yaml", "gone.parquet"),
        ("lvis", "lvis/v1.json"),
    ]
    entries = [Entry(task=str(task), dataset=dataset) for task, dataset in names]
    entries.append(Entry(task=str(data / "pets.yaml"), dataset="p*ts.parquet#val"))
    told = []
    results = run_suite(load(tiny_model(0)), Suite(name="a", tasks=entries), data, tmp_path / "out", tell=told.append)
    assert told[0] == f"not in {data}, and left out: {data / 'pets.yaml'}, lvis"
    assert [result.n for result in results] == [0, 12] and "classes: Input should be a valid list" in results[0].error
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_no_data_is_one_line(data, tiny_model, tmp_path):
    with pytest.raises(SourceError, match="has no data of suite 'kornblith-12'"):
        run_suite(load(tiny_model(0)), load_suite("kornblith-12"), tmp_path, tmp_path / "out", tell=print)


@pytest.mark.parametrize(
    "line", ["evaluate builtin", "evaluate builtin --suite elevater-20", "evaluate builtin a b --out c"]
)
def test_wrong_usage(line, capsys):
    assert main(line.split()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
