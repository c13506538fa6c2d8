"""A way to call the command line in this process, and a folder of pictures with captions."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from retroclip.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What is on stderr, which must be one line."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[[str], Ran]:
    """`run("memory info mem")`, in the temporary folder."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> Ran:
        capsys.readouterr()
        status = main(shlex.split(line))
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return call


@pytest.fixture
def model(tiny_model) -> Path:
    """The directory of a tiny model."""
    return tiny_model(0)


@pytest.fixture
def photos(tmp_path, make_encoded) -> Path:
    """20 pictures with captions that name a cat or a dog."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.jpg").write_bytes(make_encoded(number))
        (folder / f"{number:02}.txt").write_text(f"picture {number} of a {('cat', 'dog')[number % 2]}")
    return folder


@pytest.fixture
def memory(run, model, photos) -> Path:
    """A memory of these pictures."""
    assert run(f"memory create mem photos --model {model}").status == 0
    return photos.parent / "mem"
