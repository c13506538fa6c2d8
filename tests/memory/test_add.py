"""Adding: what is there already is left out, and nothing else, whatever its key."""

import datetime
from pathlib import Path

import pytest

from retroclip.memory import Memory
from retroclip.memory.store import Store
from retroclip.pairs import Pair


def folder_of(path: Path, photos: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, data in photos.items():
        (path / f"{name}.png").write_bytes(data)
    return path


def rows_of(memory: Memory) -> list[tuple[str, bytes]]:
    rows = memory.take(memory.ids(), ["key", "image"]).to_pydict()
    return list(zip(rows["key"], rows["image"], strict=True))


def test_adding_keeps_another_folders_photos_of_the_same_names(tmp_path, encoder, stub):
    one, two, three, four = (stub.photo(seed) for seed in range(4))
    first = folder_of(tmp_path / "2023", {"IMG_1": one, "IMG_2": two})
    second = folder_of(tmp_path / "2024", {"IMG_1": three, "IMG_2": two, "IMG_1~2": four})
    memory = Memory.create(tmp_path / "m", encoder, [first])
    added = memory.add([second], encoder)
    assert (added.rows, added.duplicates) == (2, 1)
    expected = [("IMG_1", one), ("IMG_2", two), ("IMG_1~2", three), ("IMG_1~3", four)]
    assert rows_of(memory) == expected
    for sources in ([first], [second], [first, second], [second, first]):
        assert memory.add(sources, encoder).rows == 0
    assert rows_of(memory) == expected
    assert memory.verify() == []


def test_adding_again_what_creation_had_renamed_adds_nothing(tmp_path, encoder, stub):
    first = folder_of(tmp_path / "a", {"photo": stub.photo(1)})
    second = folder_of(tmp_path / "b", {"photo": stub.photo(2)})
    memory = Memory.create(tmp_path / "m", encoder, [first, second])
    for sources in ([second], [first], [second, first]):
        assert memory.add(sources, encoder).rows == 0
    assert [key for key, _ in rows_of(memory)] == ["photo", "photo~2"]


def test_a_file_whose_own_name_ends_with_a_number_is_added_once(tmp_path, encoder, stub):
    first = folder_of(tmp_path / "a", {"shot~2": stub.photo(1)})
    second = folder_of(tmp_path / "b", {"shot~2": stub.photo(2)})
    memory = Memory.create(tmp_path / "m", encoder, [first])
    assert memory.add([first], encoder).rows == 0
    assert memory.add([second], encoder).rows == 1
    assert memory.add([first, second], encoder).rows == 0


def test_without_stored_images_a_source_is_told_by_its_name(tmp_path, encoder, stub):
    first = folder_of(tmp_path / "2023", {"IMG_1": stub.photo(1)})
    second = folder_of(tmp_path / "2024", {"IMG_1": stub.photo(2)})
    memory = Memory.create(tmp_path / "m", encoder, [first], images="none")
    assert memory.add([second], encoder).rows == 1
    assert memory.add([second, first], encoder).rows == 0
    assert memory.take(memory.ids(), ["key"])["key"].to_pylist() == ["IMG_1", "IMG_1~2"]


@pytest.mark.parametrize("labels", [False, True])
def test_without_stored_images_shards_of_the_same_names_are_told_by_what_they_say(tmp_path, encoder, stub, labels):
    def told(seed: int, **told: object) -> list[Pair]:
        return [Pair(f"{i:05}", stub.photo(seed + i), source="00000.tar", **told) for i in range(8)]

    different = [
        told(0, captions=("a cat ",)),
        told(10, captions=("a dog",)),
        told(20, label="cat"),
        told(30, label="dog"),
        told(40, label="dog", metadata={"url": "https://x", "width": float("nan"), "sha256": None}),
        told(50, label="dog", metadata={"url": "https://y", "sha256": None}),
        told(60, label="dog", metadata={"sha256": "aa", "at": datetime.date(2026, 1, 1)}),
        told(70, label="dog", metadata={"sha256": "bb", "at": datetime.date(2026, 1, 1)}),
    ]
    memory = Memory.create(tmp_path / "m", encoder, different[0], images="none", labels_as_captions=labels)
    for pairs in (different[1], different[2], different[3]):
        assert memory.add(pairs, encoder).rows == 8
    other = Memory.create(tmp_path / "other", encoder, different[4], images="none", labels_as_captions=labels)
    assert other.add(different[5], encoder).rows == 8
    hashed = Memory.create(tmp_path / "hashed", encoder, different[6], images="none", labels_as_captions=labels)
    assert hashed.add(different[7], encoder).rows == 8
    for opened, sources in ((memory, different[:4]), (other, different[4:6]), (hashed, different[6:])):
        for pairs in (*sources, *reversed(sources)):
            assert opened.add(pairs, encoder).rows == 0
    assert hashed.add(told(70, captions=("mended",), metadata={"sha256": "bb"}), encoder).rows == 0


def test_a_killed_adding_of_renamed_rows_goes_on(tmp_path, encoder, stub):
    first = folder_of(tmp_path / "a", {f"{i:02}": stub.photo(i) for i in range(40)})
    second = folder_of(tmp_path / "b", {f"{i:02}": stub.photo(100 + i) for i in range(40)})
    memory = Memory.create(tmp_path / "m", encoder, [first], shard_pairs=16)

    def kill(read, rejected):
        if read == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.add([second], encoder, batch_size=8, on_batch=kill)
    done = len(memory) - 40
    assert 0 < done < 40
    assert memory.add([second], encoder, batch_size=8).rows == 40 - done
    assert [image for _, image in rows_of(memory)[40:]] == [stub.photo(100 + i) for i in range(40)]


def test_known_rows_are_looked_up_many_at_a_time(tmp_path, encoder, pairs, monkeypatch):
    """Each by itself had taken longer than to read, decode and encode the pair."""
    memory = Memory.create(tmp_path / "m", encoder, pairs)
    calls = []
    take = Store.take
    monkeypatch.setattr(Store, "take", lambda self, *arguments: calls.append(1) or take(self, *arguments))
    assert memory.add(pairs, encoder).duplicates == 60 and len(calls) == 1
