import pytest

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import read_shots, split_pair, split_words
from retroclip.cli.train import parse_settings


def test_words():
    assert split_words("t2t, t2i,") == ("t2t", "t2i")


def test_pair():
    assert split_pair("flowers=data/flowers.parquet#val", "--also") == ("flowers", "data/flowers.parquet#val")


@pytest.mark.parametrize("text", ["flowers", "=x", "flowers="])
def test_no_pair(text):
    with pytest.raises(WrongUsageError, match="TASK=DATASET"):
        split_pair(text, "--also")


def test_shots():
    assert read_shots("16", "a.parquet#train") == 16
    assert read_shots("full", "a.parquet#train") is read_shots(None, None) is None
    with pytest.raises(WrongUsageError, match="name another split of them with --train"):
        read_shots("4", None)
    for text in ("0", "-1", "four"):
        with pytest.raises(WrongUsageError, match="takes a number of images a class, or full"):
            read_shots(text, "a.parquet#train")


def test_settings_are_yaml_under_dotted_names():
    tokens = ("--set.lr", "1e-3", "--set.model.depth=6", "--set.data", "[a, b]", "--set.name", "yes please")
    expected = {"lr": 1e-3, "model.depth": 6, "data": ["a", "b"], "name": "yes please"}
    assert parse_settings(tokens) == expected


def test_negative_numbers_are_values():
    assert parse_settings(("--set.shift", "-3")) == {"shift": -3}
