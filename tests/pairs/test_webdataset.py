"""WebDataset shards, whole and cut."""

import io
import json
import logging
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retroclip.errors import SourceError
from retroclip.pairs import Rejected, count_pairs, read_pairs


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def members(make_encoded):
    """Four samples: captions, a class, JSON, and one without a text."""
    return [
        ("./set/000.jpg", make_encoded(0)),
        ("./set/000.txt", b"a red bus\nrain"),
        ("./set/001.cls", b"7"),
        ("./set/001.PNG", make_encoded(1, format="PNG")),
        ("./set/002.v1.json", b"{}"),
        ("./set/002.json", json.dumps({"caption": "x", "license": "CC0", "url": "u"}).encode()),
        ("./set/002.jpg", make_encoded(2)),
        ("./set/003.jpg", make_encoded(3)),
    ]


def test_members_are_grouped_by_their_key(tmp_path, members):
    pairs = list(read_pairs(write_tar(tmp_path / "a.tar", members)))
    assert [pair.key for pair in pairs] == ["set/000", "set/001", "set/002", "set/003"]
    assert [pair.captions for pair in pairs] == [("a red bus", "rain"), (), ("x",), ()]
    assert [pair.label for pair in pairs] == [None, "7", None, None]
    assert pairs[2].license == "CC0" and pairs[2].metadata == {"url": "u"}
    assert pairs[1].image == members[3][1] and all(pair.source == "a.tar" for pair in pairs)


def test_compressed_shards_and_braces(tmp_path, members):
    for number in range(9, 12):
        renamed = [(name.replace("set", str(number)), data) for name, data in members]
        write_tar(tmp_path / f"s-{number:03d}.tar.gz", renamed, "w:gz")
    keys = [pair.key for pair in read_pairs(f"{tmp_path}/s-{{009..011}}.tar.gz")]
    assert len(keys) == 12 and keys[0] == "9/000" and keys[-1] == "11/003"
    assert [pair.key for pair in read_pairs(f"{tmp_path}/s-*.tar.gz")] == keys
    assert count_pairs(f"{tmp_path}/s-{{009..011}}.tar.gz") is None


def test_a_folder_of_shards_is_read(tmp_path, members, make_encoded):
    folder = tmp_path / "out"
    folder.mkdir()
    for number in (1, 0):  # as img2dataset writes them
        write_tar(folder / f"0000{number}.tar", [(name.replace("set", str(number)), data) for name, data in members])
        pq.write_table(pa.table({"url": ["u"], "caption": ["x"]}), folder / f"0000{number}.parquet")
        (folder / f"0000{number}_stats.json").write_text("{}")
    pairs = list(read_pairs(folder))
    assert pairs == list(read_pairs(f"{folder}/*.tar"))
    assert [pair.source for pair in pairs] == ["00000.tar"] * 4 + ["00001.tar"] * 4
    assert count_pairs(folder) is None
    assert [pair.key for pair in read_pairs(f"{tmp_path}#out", where="license = 'CC0'")] == ["0/002", "1/002"]
    tables = tmp_path / "tables"
    tables.mkdir()
    for number in range(2):
        table = pa.table({"key": [f"k{number}"], "image": [make_encoded(number)]})
        pq.write_table(table, tables / f"pairs-{number}.parquet")
    assert [pair.key for pair in read_pairs(tables)] == ["k0", "k1"] and count_pairs(tables) == 2
    pq.write_table(pa.table({"caption": ["x"]}), tables / "texts.parquet")
    with pytest.raises(SourceError, match=r"texts.parquet has no column 'image'"):
        read_pairs(tables)


def test_shards_are_found_in_folders_of_folders(tmp_path, members, make_encoded):
    for name in ("b", "a"):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_tar(tmp_path / "data" / name / "0.tar", [(member.replace("set", name), data) for member, data in members])
    embeddings = tmp_path / "emb" / "metadata"
    embeddings.mkdir(parents=True)
    (tmp_path / "emb" / "img_emb").mkdir()
    pq.write_table(pa.table({"caption": ["x"]}), embeddings / "metadata_0.parquet")
    files = [f"{tmp_path}/data/a/0.tar", f"{tmp_path}/data/b/0.tar"]
    assert list(read_pairs(tmp_path)) == list(read_pairs(files))
    for file in files:
        Path(file).unlink()
    with pytest.raises(SourceError, match=r"embeddings in .*/emb: name that folder"):
        read_pairs(tmp_path)


def test_a_tar_among_images_is_told(tmp_path, members, make_encoded, caplog):
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "cat.jpg").write_bytes(make_encoded(0))
    with caplog.at_level(logging.WARNING, logger="retroclip.pairs.folder"):
        assert [item.key for item in read_pairs(str(tmp_path))] == ["cat"]
    assert "0.tar beside them isn't read: name tars as sources" in caplog.text


def test_a_missing_shard_is_named(tmp_path, members):
    write_tar(tmp_path / "s-0.tar", members)
    with pytest.raises(SourceError, match=r"s-1\.tar"):
        read_pairs(f"{tmp_path}/s-{{0..1}}.tar")


def test_nothing_is_written_to_disk(tmp_path, members):
    write_tar(tmp_path / "a.tar", [("../evil.jpg", members[0][1]), ("/etc/evil.jpg", members[0][1])])
    assert [pair.key for pair in read_pairs(tmp_path / "a.tar")] == ["../evil", "etc/evil"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_cut_shard_gives_its_whole_samples_and_one_rejection(tmp_path, members, cut):
    path = write_tar(tmp_path / "a.tar", members)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + len(members[-1][1])
    path.write_bytes(data[: end * cut // 10])
    *pairs, last = read_pairs(path)
    assert isinstance(last, Rejected) and "the rest is lost" in last.reason and "\n" not in last.reason
    assert [pair.key for pair in pairs] == [f"set/{number:03d}" for number in range(len(pairs))]
    assert all(pair.image in dict(members).values() for pair in pairs)


def test_bad_samples_are_rejected(tmp_path, members):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"no image"), ("1.jpg", b""), *members[-1:]])
    first, second, third = read_pairs(path)
    assert isinstance(first, Rejected) and "no image" in first.reason
    assert isinstance(second, Rejected) and "0 bytes" in second.reason
    assert third.key == "set/003"


def test_what_is_no_tar_and_splits_are_errors(tmp_path, members):
    (tmp_path / "a.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(SourceError, match="can't be read as a tar"):
        read_pairs(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", members)
    with pytest.raises(SourceError, match="no splits"):
        read_pairs(f"{tmp_path}/b.tar#val")


def test_members_that_belong_to_no_pair_are_no_pairs(tmp_path, members):
    """They had counted as rejected pairs, and many of them had stopped the run."""
    others = [("./README.md", b"x"), ("./set/clip.mp4", b"x"), ("./LICENSE", b"x"), ("./set/0.index", b"x")]
    assert len(list(read_pairs(write_tar(tmp_path / "a.tar", [*others, *members, *others])))) == 4


def test_a_name_with_dots_is_told(tmp_path, members):
    named = write_tar(tmp_path / "a.tar", [("photo.v2.jpg", members[0][1]), ("photo.v2.txt", b"a dog"), *members])
    first, *others = read_pairs(named)
    assert isinstance(first, Rejected) and first.key == "photo" and "name has dots" in first.reason
    assert len(others) == 4
