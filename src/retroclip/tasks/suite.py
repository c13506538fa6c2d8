"""Suites: lists of tasks with their data, those that papers report together and the user's own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from retroclip.errors import TaskError
from retroclip.pairs.voc import SETS, VocReader
from retroclip.tasks.reading import read_yaml
from retroclip.tasks.task import Metric

EVALUATED = ("test", "val", "validation", "valid")
"""Splits to evaluate where none is named, the first that there is."""
COCO = "annotations/instances_val*.json"
"""Where COCO's boxes of an evaluation split lie in a folder as it is published."""


class Entry(BaseModel):
    """One evaluation of a suite. `dataset` and `train` are paths in the data folder, with `#split` if need be.

    `protocol` and `metric` stand in for the task's own; `options` are those of the protocol (`--set.NAME`), files among
    them in the data folder, too. A bare task name is an entry: its data is then looked for by that name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    dataset: str | None = None
    train: str | None = None
    where: str | None = None
    protocol: str | None = None
    metric: Metric | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class Suite(BaseModel):
    """A name and the evaluations that belong to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tasks: list[Entry]
    about: str = ""


def list_suites() -> list[str]:
    """Names of the suites that ship."""
    return sorted(_shipped())


def load_suite(reference: str | Path) -> Suite:
    """A suite by name, or from a YAML file with `tasks:`; TaskError for anything else."""
    text = str(reference)
    if text in _shipped():
        return _parse(text, _shipped()[text])
    path = Path(text)
    if not path.is_file():
        raise TaskError(f"no suite {text!r}: choose {', '.join(list_suites())}, or give a YAML file with `tasks:`")
    try:
        record = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(f"suite {path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    return _parse(path.stem, record)


@cache
def _shipped() -> dict[str, Any]:
    return yaml.safe_load(files("retroclip.tasks").joinpath("suites.yaml").read_text(encoding="utf-8"))


def _parse(name: str, record: Any) -> Suite:
    if isinstance(record, list):
        record = {"tasks": record}
    if not isinstance(record, dict) or not record.get("tasks"):
        raise TaskError(f"suite {name!r} lists no tasks: write `tasks:` and a list of names, or of task and dataset")
    try:
        return Suite.model_validate({"name": name, **record})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TaskError(f"suite {name!r}: {where}: {problem['msg']}") from None


def find_dataset(folder: Path, task: str) -> str | None:
    """The data of a task below a folder: `food101.parquet`, `food101/`, also with `_` for `-`; None without any.

    Where it has splits, the first of `EVALUATED` is taken, so that no training image is evaluated; of a folder in
    COCO's layout, the annotations of its `val`.
    """
    for name in dict.fromkeys((task, task.replace("-", "_"))):
        for path in (folder / f"{name}.parquet", folder / name):
            if path.exists():
                if path.is_dir() and (annotations := sorted(path.glob(COCO))):
                    return str(annotations[-1])
                found = splits_of(path)
                split = next((each for each in EVALUATED if each in found), None)
                return f"{path}#{split}" if split else str(path)
    return None


def splits_of(path: Path) -> set[str]:
    """The splits that a parquet file's `split` column, a folder's sub-folders or a VOC folder's ImageSets name."""
    if (path / SETS).is_dir() and VocReader().accepts(path):
        return {file.stem for file in (path / SETS).glob("*/*.txt")}
    if path.is_dir():
        return {entry.name for entry in path.iterdir() if entry.is_dir()}
    try:
        if "split" not in pq.read_schema(path).names:
            return set()
        return {str(value) for value in pq.read_table(path, columns=["split"])["split"].unique().to_pylist()}
    except (pa.ArrowException, OSError):
        return set()  # the reader says what is wrong with it
