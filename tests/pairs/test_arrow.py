"""Lance tables and saved Hugging Face data sets."""

import json
from types import SimpleNamespace

import lance
import pyarrow as pa
import pytest

from retroclip.errors import SourceError
from retroclip.pairs import count_pairs, dataset_pairs, read_pairs

ROWS = [
    {"key": f"k{i}", "image": b"image %d" % i, "caption": f"caption {i}", "split": ("train", "val")[i % 2], "n": i}
    for i in range(600)
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.lance"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 1200, pa.float32()), 2)
    lance.write_dataset(pa.Table.from_pylist(ROWS).append_column("vector", vectors), str(path))
    return path


def save(folder, rows, files=2):
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    schema = pa.schema(
        [("image", image), ("label", pa.int64()), ("caption", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for number in range(files):
        part = [
            {"image": {"bytes": row["image"], "path": None}, "label": row["n"] % 2, "caption": row["caption"]}
            for row in rows[number::files]
        ]
        name = str(folder / f"data-{number:05}-of-{files:05}.arrow")
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
    (folder / "dataset_info.json").write_text("{}")
    return schema


def test_a_lance_table_is_read_like_a_parquet_file(table):
    pairs = list(read_pairs(table))
    assert [pair.key for pair in pairs] == [row["key"] for row in ROWS]
    assert (pairs[3].image, pairs[3].captions) == (b"image 3", ("caption 3",))
    assert pairs[3].metadata == {"split": "val", "n": 3}
    assert list(read_pairs(table)) == pairs
    assert count_pairs(table) == 600
    assert [pair.key for pair in read_pairs(f"{table}#val", where="n < 6")] == ["k1", "k3", "k5"]


def test_what_is_wrong_with_a_lance_table(tmp_path, table):
    with pytest.raises(SourceError, match="no column 'nosuch'"):
        read_pairs(table, where="nosuch = 1")
    lance.write_dataset(pa.table({"caption": ["x"]}), str(tmp_path / "texts.lance"))
    with pytest.raises(SourceError, match="no column 'image'"):
        read_pairs(tmp_path / "texts.lance")
    with pytest.raises(SourceError, match="no column 'split'"):
        lance.write_dataset(pa.table({"image": [b"x"]}), str(tmp_path / "images.lance"))
        read_pairs(f"{tmp_path / 'images.lance'}#val")
    (tmp_path / "empty" / "_versions").mkdir(parents=True)
    with pytest.raises(SourceError, match="can't be read as a Lance table"):
        read_pairs(tmp_path / "empty")


def test_a_saved_dataset(tmp_path):
    save(tmp_path / "one", ROWS[:10])
    pairs = list(read_pairs(tmp_path / "one"))
    assert [pair.image for pair in pairs] == [row["image"] for row in ROWS[:10:2] + ROWS[1:10:2]]
    assert [pair.label for pair in pairs] == ["cat"] * 5 + ["dog"] * 5
    with pytest.raises(SourceError, match="without splits"):
        read_pairs(f"{tmp_path / 'one'}#train")


def test_splits_of_a_saved_dataset(tmp_path):
    for split, rows in (("train", ROWS[:6]), ("val", ROWS[6:8])):
        save(tmp_path / "both" / split, rows)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "val"]}')
    assert len(list(read_pairs(tmp_path / "both"))) == 8
    assert [pair.caption for pair in read_pairs(f"{tmp_path / 'both'}#val")] == ["caption 6", "caption 7"]
    with pytest.raises(SourceError, match="no split 'test'; it has: train, val"):
        read_pairs(f"{tmp_path / 'both'}#test")
    for file in (tmp_path / "both" / "val").glob("*.arrow"):
        file.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="can't be read as Arrow"):
        read_pairs(f"{tmp_path / 'both'}#val")


class Dataset:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, table):
        self.table, self.features = table, SimpleNamespace(arrow_schema=table.schema)

    def with_format(self, kind):
        assert kind == "arrow"
        return self

    def iter(self, size):
        return iter([self.table.slice(0, 4), self.table.slice(4)])


def test_a_dataset_object(tmp_path):
    save(tmp_path / "one", ROWS[:10], files=1)
    with pa.ipc.open_stream(str(tmp_path / "one" / "data-00000-of-00001.arrow")) as stream:
        table = stream.read_all()

    pairs = list(dataset_pairs(Dataset(table)))
    assert [(pair.key, pair.label) for pair in pairs[:2]] == [("dataset/00000000", "cat"), ("dataset/00000001", "dog")]
    assert len(pairs) == 10


def test_images_that_a_dataset_object_holds_by_path_are_read(tmp_path):
    """Those of an `imagefolder`: all of them had been rejected."""
    (tmp_path / "a.jpg").write_bytes(b"one")
    paths = [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg")]
    table = pa.table({"image": [{"bytes": None, "path": path} for path in paths]})
    table = table.cast(pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]))
    there, gone = dataset_pairs(Dataset(table))
    assert there.image == b"one" and gone.reason == f"no image bytes, only the path {paths[1]}"
