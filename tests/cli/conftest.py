"""A way to call the command line in this process, and a folder of pictures with captions."""

import csv
import io
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

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

    @property
    def table(self) -> list[dict[str, str]]:
        """The rows of the CSV on stdout."""
        return list(csv.DictReader(io.StringIO(self.out)))


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


def pictures(folder: Path, make_encoded: Callable[..., bytes]) -> Path:
    """20 pictures with captions that name a cat or a dog."""
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.jpg").write_bytes(make_encoded(number))
        (folder / f"{number:02}.txt").write_text(f"picture {number} of a {('cat', 'dog')[number % 2]}")
    return folder


@pytest.fixture
def photos(tmp_path, make_encoded) -> Path:
    """Those pictures in the temporary folder."""
    return pictures(tmp_path / "photos", make_encoded)


@pytest.fixture(scope="session")
def made_memory(tmp_path_factory, tiny_model, make_encoded) -> Path:
    """A memory of the pictures in `photos`, made once."""
    folder = tmp_path_factory.mktemp("made")
    source, model = pictures(folder / "photos", make_encoded), tiny_model(0)
    assert main(["memory", "create", str(folder / "mem"), str(source), "--model", str(model)]) == 0
    return folder / "mem"


@pytest.fixture
def memory(photos, made_memory) -> Path:
    """A copy of it beside the pictures, as `mem`."""
    return Path(shutil.copytree(made_memory, photos.parent / "mem"))


@pytest.fixture
def task(tmp_path) -> str:
    (tmp_path / "animals.yaml").write_text(yaml.safe_dump({"name": "animals", "classes": ["cat", "dog"]}))
    return "animals.yaml"


@pytest.fixture
def calibrating(tmp_path, photos, make_encoded):
    """Class folders of 24 pictures, half of which are in the memory."""
    for number in range(24):
        folder = tmp_path / "calibrating" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(make_encoded(number if number < 12 else 100 + number))
    return "calibrating"
