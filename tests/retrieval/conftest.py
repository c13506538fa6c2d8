"""A memory of coloured pictures, some with captions that name their colour, and the task of naming colours."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from retroclip.memory import Memory
from retroclip.pairs import Pair
from retroclip.tasks import Task

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def stub() -> ModuleType:
    """The module `tests/memory/stub.py`: StubEncoder, photo, COLOURS."""
    path = Path(__file__).parents[1] / "memory" / "stub.py"
    spec = importlib.util.spec_from_file_location("memory_stub", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_stub"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def encoder(stub):
    return stub.StubEncoder(dim=24)


@pytest.fixture(scope="session")
def pairs(stub) -> list[Pair]:
    """90 pairs: pictures of the three colours in turn, every second with a caption; the last 30 grey and unrelated."""
    made = []
    for i in range(60):
        colour = COLOURS[i % 3]
        captions = (f"a picture of {colour} paper", f"{colour} number {i}") if i % 2 else ()
        made.append(Pair(f"c{i:02}", stub.photo(i, colour), captions, source="colours", license="CC0"))
    for i in range(30):
        made.append(Pair(f"g{i:02}", stub.photo(100 + i, "grey"), (f"grey stone {i}",), source="stones"))
    return made


@pytest.fixture(scope="session")
def memory(tmp_path_factory, encoder, pairs) -> Memory:
    return Memory.create(tmp_path_factory.mktemp("retrieval") / "m", encoder, pairs)


@pytest.fixture(scope="session")
def task() -> Task:
    return Task("colours", classes=list(COLOURS), templates=["a photo of {} paper.", "a picture of {}."])
