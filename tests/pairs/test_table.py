"""CSV and TSV files that name image files."""

import pytest

from retroclip.errors import SourceError
from retroclip.pairs import Rejected, count_pairs, read_pairs


@pytest.fixture
def folder(tmp_path, make_encoded):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(make_encoded(number))
    return tmp_path


def write(folder, text, name="pairs.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns(folder, encoding):
    text = 'image,caption,label,split,author,license\nimages/0.jpg,"a dog, running",dog,train,me,CC0\n'
    text += "images/1.jpg,,cat,val,,\n\nimages/2.jpg,ネコ,cat,val,you,\n"
    path = write(folder, text, encoding=encoding)
    pairs = list(read_pairs(path))
    assert [pair.key for pair in pairs] == ["images/0", "images/1", "images/2"]
    assert [pair.captions for pair in pairs] == [("a dog, running",), (), ("ネコ",)]
    assert [pair.label for pair in pairs] == ["dog", "cat", "cat"]
    assert pairs[0].metadata == {"split": "train", "author": "me"} and pairs[0].license == "CC0"
    assert "empty" in pairs[1].metadata["note"]
    assert pairs[2].image == (folder / "images" / "2.jpg").read_bytes()
    assert count_pairs(path) == 3 and count_pairs(f"{path}#val") == 2
    assert [pair.key for pair in read_pairs(f"{path}#val", where="author = 'you'")] == ["images/2"]


@pytest.mark.parametrize(
    ("name", "header", "delimiter"),
    [("a.tsv", ["filepath", "title"], "\t"), ("a.csv", ["path", "text"], "\t"), ("a.csv", ["file_name", "text"], ";")],
)
def test_other_names_and_delimiters(folder, name, header, delimiter):
    path = write(folder, f"{delimiter.join(header)}\nimages/0.jpg{delimiter}a dog, running\n", name)
    assert next(read_pairs(path)).captions == ("a dog, running",)


def test_rows_of_one_image_are_one_pair(folder):
    path = write(folder, "image,caption\nimages/0.jpg,one\nimages/0.jpg,two\nimages/1.jpg,three\n")
    assert [pair.captions for pair in read_pairs(path)] == [("one", "two"), ("three",)]


def test_bad_rows_are_rejected(folder):
    (folder / "images" / "empty.jpg").write_bytes(b"")
    rows = ["images/none.jpg,x", "images/empty.jpg,x", "https://host/a.jpg,x", ",x", "images/0.jpg"]
    path = write(folder, "image,caption\n" + "\n".join(rows) + "\n")
    *rejected, pair = read_pairs(path)
    reasons = [item.reason for item in rejected if isinstance(item, Rejected)]
    assert len(reasons) == 4 and pair.key == "images/0"
    assert ["No such file" in reasons[0], "0 bytes" in reasons[1], "web address" in reasons[2]] == [True] * 3


def test_columns_in_capitals_are_the_same(folder):
    """`URL,TEXT`, LAION's own header, had lost every caption without a word."""
    pair = next(read_pairs(write(folder, "Path,TEXT,URL,Label\nimages/0.jpg,a dog,http://x/0.jpg,dog\n")))
    assert (pair.captions, pair.label, pair.metadata) == (("a dog",), "dog", {"URL": "http://x/0.jpg"})


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("", "", "is empty"),
        ("caption,label\nx,y\n", "", "no image column"),
        ("image\nimages/0.jpg\n", "#val", "no column 'split'"),
    ],
)
def test_wrong_tables_are_errors_at_the_call(folder, text, suffix, message):
    with pytest.raises(SourceError, match=message):
        read_pairs(f"{write(folder, text)}{suffix}")


def test_a_split_that_is_not_there(folder):
    path = write(folder, "image,split\nimages/0.jpg,train\n")
    with pytest.raises(SourceError, match="it has: train"):
        list(read_pairs(f"{path}#val"))


def test_rows_of_another_length_are_told_not_cut(folder):
    """Commas outside quotes had cut captions, and a row that ended before its image had ended the run."""
    text = (
        ",image, caption ,note\n0,images/0.jpg,a dog, running\n1,images/1.jpg,a dog, running,fast\n2\n3,images/2.jpg\n"
    )
    first, long, short, last = read_pairs(write(folder, text))
    assert first.captions == ("a dog",) and first.metadata == {"": "0", "note": "running"}
    assert isinstance(long, Rejected) and long.key == "images/1" and "5 cells, the header 4" in long.reason
    assert isinstance(short, Rejected) and "names no image" in short.reason
    assert last.key == "images/2" and last.captions == ()


def test_spaces_after_delimiters_are_none_of_the_names_and_texts(folder):
    path = write(folder, 'image, caption, split\nimages/0.jpg, "a dog, running", train\n')
    assert next(read_pairs(f"{path}#train")).captions == ("a dog, running",)


def test_a_stray_quote_swallows_no_row(folder):
    """It had made one caption of everything up to the next quote or the end of the file."""
    text = 'image\tcaption\nimages/0.jpg\t"two\nlines"\nimages/1.jpg\t"not closed\nimages/2.jpg\t"quoted" once\n'
    path = write(folder, text, "a.tsv")
    captions = [pair.captions for pair in read_pairs(path)]
    assert captions == [("two\nlines",), ('"not closed',), ('"quoted" once',)] and count_pairs(path) == 3


def test_captions_in_another_encoding_are_told(folder):
    path = write(folder, "image,caption,author\nimages/0.jpg,café,Zoë\n", encoding="latin-1")
    pair = next(read_pairs(path))
    assert pair.captions == () and pair.faults == ("a caption is not UTF-8",)
    assert pair.metadata["author"] == "Zo\ufffd"
