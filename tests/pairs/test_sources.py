"""References, several sources together, unique keys."""

import pytest

from retroclip.errors import SourceError
from retroclip.pairs import count_pairs, load_labelled, read_pairs
from retroclip.pairs.pair import clean_captions
from retroclip.pairs.reference import expand_braces, resolve


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{008..010}.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{train,val}-{0..1}", ["train-0", "train-1", "val-0", "val-1"]),
        ("{2..0}", ["2", "1", "0"]),
        ("a{b}c", ["a{b}c"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


def test_splits_and_paths_with_a_hash(tmp_path):
    (tmp_path / "a#b").mkdir()
    assert resolve(tmp_path / "a#b")[0].split is None
    assert resolve(f"{tmp_path}/a#b#val")[0].split == "val"
    with pytest.raises(SourceError, match="name a split"):
        resolve(f"{tmp_path}#")


def test_sources_follow_each_other_and_keys_stay_unique(tmp_path, make_encoded):
    for name in ["one/cat.jpg", "two/cat.jpg", "two/dog.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(make_encoded())
    sources = [tmp_path / "one", str(tmp_path / "two"), tmp_path / "one"]
    assert [pair.key for pair in read_pairs(sources)] == ["cat", "cat~2", "dog", "cat~3"]
    assert count_pairs(sources) == 4
    assert list(read_pairs(sources)) == list(read_pairs(sources))


@pytest.mark.parametrize("name", ["none", "none.parquet", "a.xyz"])
def test_what_cannot_be_read_is_an_error_at_the_call(tmp_path, name):
    (tmp_path / "a.xyz").write_bytes(b"x")
    with pytest.raises(SourceError):
        read_pairs([tmp_path / name])
    with pytest.raises(SourceError):
        load_labelled(tmp_path / name)


def test_no_source_is_an_error():
    with pytest.raises(SourceError, match="no source"):
        read_pairs([])


def test_class_folders_are_a_labelled_set(tmp_path, make_encoded):
    for name in ["cat/1.jpg", "cat/2.jpg", "golden_retriever/1.jpg", "stray.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(make_encoded())
    (tmp_path / "cat" / "3.jpg").write_bytes(b"")
    data = load_labelled(tmp_path)
    assert data.labels == ["cat", "cat", "golden_retriever"] and data.keys[0] == "cat/1"
    assert (data.name, data.split, data.skipped, len(data.rejected)) == (tmp_path.name, "all", 1, 1)


def test_captions_are_normalised_and_otherwise_untouched():
    assert clean_captions(["  Ein Cafe\u0301 ", None, "", "Ein Café", "हिन्दी", "עִבְרִית!"]) == (
        "Ein Café",
        "हिन्दी",
        "עִבְרִית!",
    )
