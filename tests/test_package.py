"""The package's names: all there, and imported only when used."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retroclip

REPOSITORY = Path(__file__).resolve().parents[1]


def python(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode


def test_import_is_cheap():
    assert python("import retroclip, sys; sys.exit('torch' in sys.modules)") == 0


@pytest.mark.parametrize("name", retroclip.__all__)
def test_every_name_is_there(name):
    assert getattr(retroclip, name) is not None
    assert name in dir(retroclip)


def test_functions_are_not_hidden_by_modules_of_the_same_name():
    for name in ("load", "retrieve", "customize", "fuse", "evaluate", "compare"):
        assert callable(getattr(retroclip, name)), name


def test_unknown_names():
    with pytest.raises(AttributeError, match="nosuch"):
        retroclip.nosuch  # noqa: B018


def test_loading_registers_the_builtin_tower():
    import timm

    assert retroclip.load is not None
    assert timm.is_model("retroclip_hybrid_lite2_d6")


def test_make_test_installs_what_tests_would_skip_without():
    described = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = described["optional-dependencies"]
    own = [re.match(r"retroclip\[(.*)\]", line) for line in extras["dev"]]
    taken = [*extras["dev"], *(line for found in own if found for name in found[1].split(",") for line in extras[name])]
    installed = {re.split(r"\W", line)[0] for line in taken}
    tests = (file.read_text() for file in (REPOSITORY / "tests").rglob("test_*.py"))
    asked = {name for text in tests for name in re.findall(r'importorskip\("(\w+)', text)}
    assert {"av", "onnxruntime", "ray"} <= asked <= installed
