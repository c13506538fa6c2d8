"""Fixtures of the memory's tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from retroclip.pairs import Pair


@pytest.fixture(scope="session")
def stub() -> ModuleType:
    """The module `stub.py`: StubEncoder, photo, COLOURS."""
    spec = importlib.util.spec_from_file_location("memory_stub", Path(__file__).parent / "stub.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_stub"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def encoder(stub):
    return stub.StubEncoder()


@pytest.fixture(scope="session")
def pairs(stub) -> list[Pair]:
    """60 pairs: every third without caption, some with two, labels even/odd for all but every fifth."""
    made = []
    for i in range(60):
        captions = () if i % 3 == 0 else (f"photo number {i}",) if i % 2 else (f"picture {i}", f"a view of {i}")
        label = None if i % 5 == 0 else ("even", "odd")[i % 2]
        made.append(Pair(f"p{i:03}", stub.photo(i), captions, label, source="made", license="CC0", metadata={"n": i}))
    return made
