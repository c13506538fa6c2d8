"""Every name of the package shows how it is used, and what it shows is true."""

import doctest
import shutil

import pytest

import retroclip


@pytest.fixture(scope="module")
def names(tmp_path_factory, tiny_model, make_encoded):
    """What examples may use: the package's names, a model, a memory `mem` of the pictures in `photos/`, a task."""
    folder = tmp_path_factory.mktemp("examples")
    for number in range(20):
        name = ("cat", "dog")[number % 2]
        for path in (folder / "photos" / f"{number:02}.jpg", folder / "labelled" / name / f"{number:02}.jpg"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_encoded(number if path.parent.name == "photos" else 100 + number))
        (folder / "photos" / f"{number:02}.txt").write_text(f"picture {number} of a {name}")
    found = {name: getattr(retroclip, name) for name in retroclip.__all__}
    found["encoder"] = retroclip.load(tiny_model(0))
    found["memory"] = retroclip.Memory.create(folder / "mem", found["encoder"], [folder / "photos"])
    found["task"] = retroclip.Task("pets", classes=["cat", "dog"])
    return folder, found


@pytest.mark.parametrize("name", [name for name in retroclip.__all__ if name != "__version__"])
def test_examples_are_true(name, names, tmp_path, monkeypatch):
    folder, found = names
    for source in ("photos", "labelled"):
        shutil.copytree(folder / source, tmp_path / source)
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder(recurse=False).find(found[name], name, globs=dict(found))
    assert test.examples
    lines: list[str] = []
    doctest.DocTestRunner().run(test, out=lines.append)
    assert not lines, "".join(lines)
