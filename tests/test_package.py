"""The package's names: all there, and imported only when used."""

import subprocess
import sys

import pytest

import retroclip


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
