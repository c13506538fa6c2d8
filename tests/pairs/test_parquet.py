"""Parquet files: this project's columns, Hugging Face's, and broken ones."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.errors import SourceError
from retroclip.pairs import Rejected, count_pairs, load_labelled, read_pairs


@pytest.fixture
def table(make_encoded):
    """Six rows in two splits, with every column of the shared data and one more."""
    return pa.table(
        {
            "key": [f"k{i}" for i in range(6)],
            "image": [make_encoded(i) for i in range(6)],
            "caption": ["a dog", None, " ", "a cat", None, "a bus"],
            "captions": [["a dog", "it runs"], None, [""], ["a cat"], [], ["a bus", None]],
            "label": ["dog", None, "dog", "cat", None, "bus"],
            "split": ["train", "train", "val", "val", "val", "train"],
            "source": ["web"] * 6,
            "license": ["CC0", None, "CC0", "CC BY 4.0", None, None],
            "width": pa.array([48] * 6, pa.int32()),
            "boxes": [[{"label": "dog", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}], None, [], None, None, None],
            "mask": pa.array([None, b"png", None, None, None, None], pa.binary()),
        }
    )


@pytest.fixture
def file(table, tmp_path):
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=2)
    return tmp_path / "set.parquet"


def test_every_column_finds_its_field(file, table):
    pairs = list(read_pairs(file))
    assert [pair.key for pair in pairs] == table["key"].to_pylist()
    assert [pair.image for pair in pairs] == table["image"].to_pylist()
    assert [pair.captions for pair in pairs] == [("a dog", "it runs"), (), (), ("a cat",), (), ("a bus",)]
    assert [pair.label for pair in pairs] == table["label"].to_pylist()
    assert [pair.license for pair in pairs] == table["license"].to_pylist()
    assert pairs[0].boxes == (("dog", 1.0, 2.0, 3.0, 4.0),) and pairs[1].mask == b"png"
    assert pairs[0].metadata == {"split": "train", "width": 48} and pairs[0].source == "web"
    assert "empty" in pairs[2].metadata["note"] and "note" not in pairs[1].metadata
    assert count_pairs(file) == 6


def test_captions_and_labels_by_the_names_that_others_give_them(tmp_path, make_encoded):
    """Of a text and a title the same one as in a table, whichever column is first."""
    row = {"image": make_encoded(0), "TEXT": "a dog", "title": "Rex", "class": "dog", "url": "http://x"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist([row | {"captions": ["it runs"], "label": "pet"}]), tmp_path / "b.parquet")
    (theirs,), (ours,) = (list(read_pairs(tmp_path / name)) for name in ("a.parquet", "b.parquet"))
    assert (theirs.captions, theirs.label) == (("Rex",), "dog")
    assert theirs.metadata == {"TEXT": "a dog", "url": "http://x"}
    assert (ours.captions, ours.label, ours.metadata["TEXT"]) == (("it runs",), "pet", "a dog")
    (tmp_path / "a.png").write_bytes(row["image"])
    (tmp_path / "a.csv").write_text("image,TEXT,title,class\na.png,a dog,Rex,dog\n")
    (listed,) = read_pairs(tmp_path / "a.csv")
    assert (listed.captions, listed.label) == (theirs.captions, theirs.label)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_gives_its_rows_only(file, split):
    pairs = list(read_pairs(f"{file}#{split}"))
    assert {pair.metadata["split"] for pair in pairs} == {split}
    assert len(pairs) == count_pairs(f"{file}#{split}") == 3


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ("label = 'dog'", ["k0", "k2"]),
        ("license IN ('CC0', 'CC BY 4.0') AND NOT label = 'dog'", ["k3"]),
        ("label IS NULL AND split = 'val'", ["k4"]),
        ("width < 48", []),
    ],
)
def test_where_chooses_rows(file, where, keys):
    assert [pair.key for pair in read_pairs(file, where=where)] == keys


@pytest.mark.parametrize(
    ("source", "where", "message"),
    [
        ("#test", None, "no split 'test'; it has: train, val"),
        ("", "colour = 1", "no column 'colour'"),
        ("", "label = 'x'; DROP TABLE t", "can't read"),
    ],
)
def test_wrong_questions_are_errors_at_the_call(file, source, where, message):
    with pytest.raises(SourceError, match=message):
        read_pairs(f"{file}{source}", where=where)


def test_missing_columns_are_errors(file, table, tmp_path):
    pq.write_table(table.drop_columns(["image"]), tmp_path / "no.parquet")
    with pytest.raises(SourceError, match="no column 'image'; it has: key, caption"):
        read_pairs(tmp_path / "no.parquet")
    pq.write_table(table.drop_columns(["split"]), tmp_path / "no.parquet")
    with pytest.raises(SourceError, match="no column 'split'"):
        read_pairs(f"{tmp_path}/no.parquet#val")
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "no.parquet")
    with pytest.raises(SourceError, match="holds string"):
        read_pairs(tmp_path / "no.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(SourceError, match="can't be read as parquet"):
        read_pairs(tmp_path / "no.parquet")


def test_rows_without_an_image_are_rejected_and_keys_made(make_encoded, tmp_path):
    images = pa.array([None, b"", make_encoded(0)], pa.binary())
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    first, second, third = read_pairs(tmp_path / "a.parquet")
    assert isinstance(first, Rejected) and isinstance(second, Rejected) and "no image" in first.reason
    assert third.key == "a/00000002" and third.source == "a.parquet"


def test_hugging_face_files(make_encoded, tmp_path):
    features = {"label": {"names": ["tench", "goldfish"], "_type": "ClassLabel"}}
    images = [{"bytes": make_encoded(i), "path": None} for i in range(3)]
    table = pa.table({"image": images, "label": pa.array([1, 0, None])})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "hf.parquet")
    pairs = list(read_pairs(tmp_path / "hf.parquet"))
    assert [pair.label for pair in pairs] == ["goldfish", "tench", None]
    assert pairs[0].image == images[0]["bytes"]


def test_a_broken_row_group_is_one_rejection(file, table):
    column = pq.ParquetFile(file).metadata.row_group(1).column(1)
    data = bytearray(file.read_bytes())
    at = column.data_page_offset
    data[at : at + 40] = b"\xff" * 40
    file.write_bytes(bytes(data))
    items = list(read_pairs(file))
    assert [item.key for item in items if not isinstance(item, Rejected)] == ["k0", "k1", "k4", "k5"]
    (rejected,) = [item for item in items if isinstance(item, Rejected)]
    assert "2 rows" in rejected.reason and "\n" not in rejected.reason


def test_labelled_rows(file):
    data = load_labelled(file)
    assert (data.name, data.split, len(data), data.skipped) == ("set", "all", 4, 2)
    assert data.classes == ["bus", "cat", "dog"] and data.labels == ["dog", "dog", "cat", "bus"]
    val = load_labelled(f"{file}#val")
    assert (val.split, val.keys, val.skipped) == ("val", ["k2", "k3"], 1)
    with pytest.raises(SourceError, match="no labelled image"):
        load_labelled(file, where="label IS NULL")


@pytest.mark.parametrize(("name", "rows", "classes"), [("caltech101", 1014, 96), ("gtsrb_signs", 924, 43)])
def test_shared_sets(shared_data, name, rows, classes):
    data = load_labelled(shared_data / f"{name}.parquet#val")
    assert len(data) == rows == len(set(data.keys)) and len(data.classes) == classes


def test_several_labels_come_from_a_list_or_from_boxes(table, tmp_path):
    bare = table.drop_columns(["label"])
    pq.write_table(bare, tmp_path / "boxes.parquet")
    boxed = load_labelled(tmp_path / "boxes.parquet")
    assert (boxed.keys, boxed.label_sets, boxed.labels, boxed.skipped) == (["k0"], [("dog",)], [], 5)
    listed = bare.append_column("labels", pa.array([["dog", "bus"], [], None, ["cat"], None, None]))
    pq.write_table(listed, tmp_path / "lists.parquet")
    data = load_labelled(tmp_path / "lists.parquet")
    assert data.label_sets == [("dog", "bus"), (), ("cat",)] and data.classes == ["bus", "cat", "dog"]
    assert load_labelled(tmp_path / "lists.parquet", where="key = 'k3'").keys == ["k3"]


def test_a_filter_that_no_row_passes_is_told_as_such(file):
    with pytest.raises(SourceError, match="has no row where label = 'cow'"):
        load_labelled(file, where="label = 'cow'")
