"""What a memory is created from: several sources together, data sets, another memory's table."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from retroclip.errors import SourceError
from retroclip.memory import Memory


def test_pairs_of_two_folders_do_not_hide_each_other(tmp_path, encoder, stub, pairs):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").write_bytes(stub.photo(seed))
    memory = Memory.create(tmp_path / "m", encoder, [tmp_path / "a", str(tmp_path / "b"), pairs[:2]])
    assert memory.take(memory.ids(), ["image"])["image"].to_pylist() == [
        stub.photo(1),
        stub.photo(2),
        pairs[0].image,
        pairs[1].image,
    ]
    assert memory.info()["creation"]["sources"] == [str(tmp_path / "a"), str(tmp_path / "b"), "<2 pairs>"]


class DataSet:
    """As much of `datasets.Dataset` as is read."""

    description = ""  # theirs, where nobody wrote one

    def __init__(self, images):
        self.table = pa.table({"image": images})
        self.features = SimpleNamespace(arrow_schema=self.table.schema)

    def with_format(self, kind):
        return self

    def iter(self, size):
        return iter([self.table])


def test_splits_of_a_data_set_do_not_hide_each_other(tmp_path, encoder, stub):
    """Their rows are numbered alike: all of the second but its longer end had counted as duplicates."""
    train, test = (DataSet([stub.photo(seed) for seed in range(first, first + 3)]) for first in (0, 10))
    for name, sources in (("list", [train, test]), ("dict", {"train": train, "test": test})):
        memory = Memory.create(tmp_path / name, encoder, sources)
        rows = memory.take(memory.ids(), ["key", "image"]).to_pydict()
        assert rows["image"] == [stub.photo(seed) for seed in (0, 1, 2, 10, 11, 12)]
        assert rows["key"][2:4] == ["dataset/00000002", "dataset/00000000~2"]
        assert memory.add(sources, encoder).duplicates == 6


def test_the_description_of_a_data_set_is_no_name(tmp_path, encoder, stub, monkeypatch):
    """Progress had looked for a folder of that name, and ended the run after a minute."""
    monkeypatch.setattr("retroclip.progress.LOG_SECONDS", 0.0)
    memory = Memory.create(tmp_path / "m", encoder, DataSet([stub.photo(0)]), progress=True)
    assert len(memory) == 1 and memory.info()["creation"]["sources"] == ["<DataSet>"]


def test_a_memory_is_read_by_its_table(tmp_path, encoder, pairs):
    first = Memory.create(tmp_path / "first", encoder, pairs)
    with pytest.raises(SourceError, match=r"is a memory: .* give its table, .*pairs\.lance"):
        Memory.create(tmp_path / "m", encoder, [tmp_path / "first"])
    memory = Memory.create(tmp_path / "m", encoder, [tmp_path / "first" / "pairs.lance"])
    assert memory.take(memory.ids()).equals(first.take(first.ids()))


def test_what_is_no_source_is_told(tmp_path, encoder):
    with pytest.raises(SourceError, match="a source is a path, pairs or a data set, not int"):
        Memory.create(tmp_path / "m", encoder, [5])
