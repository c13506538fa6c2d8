"""Sources, models, memories and predicates that are none, from the command line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def test_an_empty_folder(run, model, tmp_path):
    (tmp_path / "empty").mkdir()
    failed = run(f"memory create mem empty --model {model}")
    assert failed.status == 1
    assert "no image found in empty" in failed.line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_tar_among_images_is_told(run, model, photos, caplog):
    (photos / "more.tar").write_bytes(b"")
    assert "20 pairs, 0 rejected" in run(f"memory create mem photos --model {model}").line
    assert "photos holds images, so more.tar beside them isn't read: name tars as sources" in caplog.text


def test_parquet_without_image_column(run, model, tmp_path):
    pq.write_table(pa.table({"caption": ["a cat"]}), tmp_path / "texts.parquet")
    failed = run(f"memory create mem texts.parquet --model {model}")
    assert failed.status == 1
    assert "no column 'image'" in failed.line
    assert not (tmp_path / "mem").exists()


@pytest.mark.parametrize("reference", ["nosuch", "ViT-B-32/nosuch", "ViT-B-32@nosuch.pt"])
def test_unknown_models(run, photos, reference):
    failed = run(f"memory create mem photos --model {reference}")
    assert failed.status == 1
    assert "nosuch" in failed.line
    assert not (photos.parent / "mem").exists()


def test_no_memory_there(run):
    failed = run("memory info nosuch")
    assert failed.status == 1
    assert "nosuch" in failed.line


def test_predicates_that_are_none(run, memory):
    failed = run("""memory delete mem --where "key = 'a'; drop table pairs" """)
    assert failed.status == 1
    assert ";" in failed.line
    assert json.loads(run("memory info mem --json").out)["rows"] == 20
