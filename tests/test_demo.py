"""The demo's flow on a handful of its photos with a tiny model, and the samples themselves."""

import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from retroclip import demo
from retroclip.errors import SourceError
from retroclip.memory import Memory
from retroclip.pairs import decode_image
from retroclip.retrieval import ClassNames
from retroclip.tasks import Task

MEGABYTE = 2**20


@pytest.fixture
def few_samples(tmp_path, monkeypatch):
    """Three classes of the samples: 20 evaluated photos, 60 pairs of the memory."""
    folder = tmp_path / "samples"
    folder.mkdir()
    task = yaml.safe_load((demo.SAMPLES / "things.yaml").read_text())
    task["classes"] = task["classes"][:3]
    (folder / "things.yaml").write_text(yaml.safe_dump(task))
    things = pq.read_table(demo.SAMPLES / "things.parquet")
    kept = pa.compute.is_in(things["label"], pa.array(task["classes"]))
    pq.write_table(things.filter(kept).slice(0, 20), folder / "things.parquet")
    pq.write_table(pq.read_table(demo.SAMPLES / "memory.parquet").slice(0, 60), folder / "memory.parquet")
    (folder / "flowers.yaml").write_text((demo.SAMPLES / "flowers.yaml").read_text())
    pq.write_table(
        pq.read_table(demo.SAMPLES / "flowers.parquet")
        .slice(
            0,
            250,
        )
        .take(list(range(0, 250, 25))),
        folder / "flowers.parquet",
    )
    monkeypatch.setattr(demo, "SAMPLES", folder)
    return folder


def test_demo_runs_reports_and_resumes(few_samples, tiny_model, tmp_path, monkeypatch):
    out, told = tmp_path / "out", []
    study = demo.run_demo(out, model=str(tiny_model(0)), tell=told.append)
    assert [result.method for result in study.results] == list(demo.METHODS)
    assert [result.error for result in study.results] == [None] * len(demo.METHODS)
    page = study.report.read_text()
    assert "The memory holds 60 other pairs" in page
    assert "Caltech-101, the task" in page
    forgotten = {result.method for result in study.results if result.forgetting}
    assert {"locked-text", "gated-image"} <= forgotten
    assert any("60 pairs" in line for line in told)

    told.clear()
    again = demo.run_demo(out, model=str(tiny_model(0)), tell=told.append)
    assert any("using the memory" in line for line in told)
    assert [result.value for result in again.results] == [result.value for result in study.results]

    told.clear()
    monkeypatch.setattr(demo, "METHODS", ("zero-shot",))
    demo.run_demo(out, model=str(tiny_model(1)), tell=told.append)
    assert any("building the memory" in line for line in told)
    assert Memory.open(out / "memory").fingerprint == json.loads((out / "demo.json").read_text())["fingerprint"]


def test_an_interrupted_demo_says_that_it_goes_on(few_samples, tiny_model, tmp_path, monkeypatch):
    out, told, passed = tmp_path / "out", [], []
    create = Memory.create

    def create_and_note(*arguments, **options):
        passed.append(options["progress"])
        return create(*arguments, **options)

    monkeypatch.setattr(demo, "METHODS", ("zero-shot",))
    monkeypatch.setattr(Memory, "create", create_and_note)
    (out / "memory.partial").mkdir(parents=True)
    demo.run_demo(out, model=str(tiny_model(0)), tell=told.append, progress=True)
    assert told[0] == f"going on with the memory {out / 'memory'} from 60 pairs"
    assert passed == [True]


def test_only_what_a_demo_made_is_removed(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    demo.start_over_unless_same(tmp_path, {"fingerprint": "a"})
    assert (tmp_path / "memory").exists()
    demo.start_over_unless_same(tmp_path, {"fingerprint": "a"})
    assert (tmp_path / "memory").exists()
    demo.start_over_unless_same(tmp_path, {"fingerprint": "b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "mine.txt"]


def test_its_file_is_written_once_and_may_be_damaged(tmp_path):
    card = tmp_path / "demo.json"
    demo.start_over_unless_same(tmp_path, {"fingerprint": "a"})
    os.utime(card, (0, 0))
    demo.start_over_unless_same(tmp_path, {"fingerprint": "a"})
    assert card.stat().st_mtime == 0
    (tmp_path / "memory").mkdir()
    card.write_text('{"fingerpr')
    demo.start_over_unless_same(tmp_path, {"fingerprint": "a"})
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
    assert json.loads(card.read_text()) == {"fingerprint": "a"}


def test_without_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", tmp_path)
    with pytest.raises(SourceError, match="no samples"):
        demo.run_demo(tmp_path / "out")


def test_samples_are_small_and_licensed():
    assert sum(path.stat().st_size for path in demo.SAMPLES.iterdir()) < 30 * MEGABYTE
    for name in ("memory", "things", "flowers"):
        table = pq.read_table(demo.SAMPLES / f"{name}.parquet")
        licences = Counter(licence.partition(" (")[0] for licence in table["license"].to_pylist())
        assert set(licences) <= {"CC BY 4.0", "CC BY 2.0", "MIT"}
        assert all(table["attribution"].to_pylist())
        assert len(set(table["key"].to_pylist())) == len(table)
        for image in table["image"].to_pylist()[::100]:
            assert min(decode_image(image).size) <= 128


def test_the_memory_holds_what_its_card_says():
    memory = pq.read_table(demo.SAMPLES / "memory.parquet")
    task = Task.load(demo.SAMPLES / "things.yaml")
    names = ClassNames(task)
    naming = [bool(list(names.found_in([caption]))) for caption in memory["caption"].to_pylist()]
    assert len(task.classes) == 36
    assert sum(naming) == 1152
    assert len(naming) - sum(naming) == 1489
    assert set(memory["label"].to_pylist()) == {None}
    assert {name for name, told in zip(memory["source"].to_pylist(), naming, strict=True) if told} == {
        "Caltech-101, the task's classes"
    }
    card = (demo.SAMPLES / "README.md").read_text()
    for number in ("2,641", "1,152", "1,489", "486", "250"):
        assert number in card


def test_evaluated_photos_are_not_in_the_memory():
    memory = set(pq.read_table(demo.SAMPLES / "memory.parquet")["image"].to_pylist())
    for name in ("things", "flowers"):
        assert not memory & set(pq.read_table(demo.SAMPLES / f"{name}.parquet")["image"].to_pylist())


def test_labels_are_the_tasks_classes():
    for name in ("things", "flowers"):
        labels = set(pq.read_table(demo.SAMPLES / f"{name}.parquet")["label"].to_pylist())
        assert labels == set(Task.load(demo.SAMPLES / f"{name}.yaml").classes)
