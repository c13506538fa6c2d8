import pytest

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import matching_methods, split_pair, split_words
from retroclip.cli.train import parse_settings


def test_words():
    assert split_words("t2t, t2i,") == ("t2t", "t2i")


def test_pair():
    assert split_pair("flowers=data/flowers.parquet#val", "--also") == ("flowers", "data/flowers.parquet#val")


@pytest.mark.parametrize("text", ["flowers", "=x", "flowers="])
def test_no_pair(text):
    with pytest.raises(WrongUsageError, match="TASK=DATASET"):
        split_pair(text, "--also")


def test_methods_by_pattern_in_the_order_given():
    assert matching_methods(["gated-image*d", "primed", "nosuch"]) == ["gated-image-averaged", "primed", "nosuch"]


def test_settings_are_yaml_under_dotted_names():
    tokens = ("--set.lr", "1e-3", "--set.model.depth=6", "--set.data", "[a, b]", "--set.name", "yes please")
    expected = {"lr": 1e-3, "model.depth": 6, "data": ["a", "b"], "name": "yes please"}
    assert parse_settings(tokens) == expected


def test_negative_numbers_are_values():
    assert parse_settings(("--set.shift", "-3")) == {"shift": -3}
