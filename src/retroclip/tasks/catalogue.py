"""Tasks by name: the YAML files in `catalogue/`, and the user's own files."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from retroclip.errors import TaskError
from retroclip.pairs.clip_benchmark import CLASS_NAMES, class_names, dataset_type, read_templates
from retroclip.tasks.annotations import LVIS, task_from_annotations
from retroclip.tasks.reading import TEXTS, read_yaml
from retroclip.tasks.task import Task

_SUFFIXES = (".yaml", ".yml", ".txt")


@cache
def _files() -> dict[str, Any]:
    folder = files("retroclip.tasks").joinpath("catalogue")
    entries = {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return dict(sorted(entries.items()))


def catalogue() -> list[str]:
    """Names of the tasks that ship, sorted.

    >>> "caltech101" in catalogue()
    True
    """
    return list(_files())


def load_task(reference: str | Path) -> Task:
    """A task from a catalogue name, a file (COCO and LVIS json too), or class names with commas between.

    Raises:
        TaskError: no such name or file, or what it holds is not a task.
    """
    text = str(reference)
    path = Path(text)
    if (path / CLASS_NAMES).is_file():
        return _load_folder(path)
    if path.suffix.lower() == ".json":
        return task_from_annotations(path)
    if path.suffix.lower() in _SUFFIXES or path.is_file():
        return _load_file(path)
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    if name in _files():
        return _parse(_files()[name].read_text(encoding="utf-8"), name)
    if "," in text:
        return Task("classes", classes=[part for part in text.split(",") if part.strip()])
    if name == LVIS:
        raise TaskError("the class names of lvis come with its annotations: name lvis_v1_val.json as the task")
    near = difflib.get_close_matches(name, catalogue(), n=3)
    hint = f"did you mean {' or '.join(near)}" if near else "`retroclip tasks` lists them"
    raise TaskError(f"no task {text!r}; {hint}, or give a file of class names (.yaml, .txt), or 'cat, dog'")


def _load_folder(folder: Path) -> Task:
    """A folder in CLIP_benchmark's layout: its class names and templates; the metric is `map` if it is multi-label."""
    names = class_names(folder)
    templates = read_templates(folder)
    return Task(
        folder.resolve().name,
        classes=list(names),
        display={name: text for name, text in names.items() if name != text},
        metric="map" if dataset_type(folder) == "multilabel" else "top1",
        **({"templates": templates} if templates else {}),
    )


def _load_file(path: Path) -> Task:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TaskError(f"can't read the task file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TaskError(f"the task file {path} is not UTF-8 text") from None
    if path.suffix.lower() == ".txt":
        return Task(path.stem, classes=[line for line in text.splitlines() if line.strip()])
    return _parse(text, path.stem)


def _parse(text: str, name: str) -> Task:
    try:
        record = read_yaml(text, TEXTS)
    except yaml.YAMLError as error:
        raise TaskError(f"task {name!r} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if isinstance(record, list):
        record = {"classes": record}
    if not isinstance(record, dict):
        raise TaskError(f"task {name!r}: there are no classes; the file must hold a list of class names, or a task")
    return Task(**{"name": name, **record})
