import inspect
import re
from typing import get_type_hints

import pytest

from retroclip import training
from retroclip.cli.customize import customize
from retroclip.cli.failures import WrongUsageError
from retroclip.cli.fuse import fuse
from retroclip.cli.options import read_shots, split_pair, split_words
from retroclip.cli.train import parse_settings
from retroclip.fusion import RecoFusion, RetrievalAugmentation
from retroclip.training.recipes import RECIPES


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


def test_a_setting_that_is_no_yaml_is_wrong_usage():
    with pytest.raises(WrongUsageError, match=r"the value of --set.data is not YAML: '\[a'"):
        parse_settings(("--set.data", "[a"))


def test_negative_numbers_are_values():
    assert parse_settings(("--set.shift", "-3")) == {"shift": -3}


@pytest.mark.parametrize(
    ("verb", "beneath"),
    [(customize, [training.customize]), (fuse, [training.fuse, RecoFusion, RetrievalAugmentation])],
)
def test_defaults_that_help_names_are_those_of_the_functions(verb, beneath):
    own = {p.name: p.default for made in reversed(beneath) for p in inspect.signature(made).parameters.values()}
    if verb is customize:
        own |= RECIPES[own["recipe"]]
    checked = []
    for name, hint in get_type_hints(verb, include_extras=True).items():
        texts = [str(each.help) for each in getattr(hint, "__metadata__", ()) if each.help]
        told = re.search(r"Default: ([\w.-]+)\.$", " ".join(texts))
        if told is not None:
            assert told[1] == str(own[name]), name
            checked.append(name)
        if name in own and name not in ("model", "tuning", "recipe", "kind", "seed", "memory", "k", "retrieved"):
            assert inspect.signature(verb).parameters[name].default is None, f"--{name} has a default of its own"
    assert len(checked) >= 4
