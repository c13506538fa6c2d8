"""Tasks from annotation files: LVIS's 1,203 class names come with its data, not with this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retroclip.errors import TaskError
from retroclip.pairs.pair import label_key
from retroclip.tasks.task import Task

LVIS = "lvis"
TEMPLATES = "imagenet"  # RA-CLIP's 80, for COCO and LVIS alike


def task_for(reference: str | Path | Task, dataset: str | Path) -> Task:
    """`Task.load`, but for `lvis`, whose classes are read from the data set itself.

    Raises TaskError as `Task.load` and `task_from_annotations` do.
    """
    if str(reference).strip().lower() != LVIS:
        return Task.load(reference)
    return task_from_annotations(Path(str(dataset).partition("#")[0]), LVIS)


def task_from_annotations(path: Path, name: str | None = None) -> Task:
    """The categories of a COCO or LVIS json as a task for regions, in the order of their ids.

    Underscores become spaces. LVIS's synonyms and definitions are taken over; its rare classes (`frequency: r`) are
    `novel`, as in open-vocabulary detection on LVIS (ViLD, RegionCLIP). Raises TaskError for another file.
    """
    if path.is_dir():
        raise TaskError(f"can't read class names from {path}: it is a folder, and no COCO or LVIS json")
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"can't read class names from {path}: {' '.join(str(error).split())[:160]}") from None
    rows = record.get("categories") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and "name" in r for r in rows):
        raise TaskError(f"{path} has no categories: name a COCO or LVIS json, whose class names are read from it")
    rows = sorted(
        rows, key=lambda row: (0, row["id"], "") if isinstance(row.get("id"), int) else (1, 0, str(row.get("id")))
    )
    own = {label_key(str(row["name"])) for row in rows}
    fields: dict[str, Any] = {"classes": [_words(row["name"]) for row in rows], "synonyms": {}, "descriptions": {}}
    for row, text in zip(rows, fields["classes"], strict=True):
        given = row.get("synonyms") or []
        synonyms = given if isinstance(given, list) else [given]
        others = [word for each in synonyms if label_key(word := _words(each)) not in own]
        if others:
            fields["synonyms"][text] = others
        if row.get("def"):
            fields["descriptions"][text] = str(row["def"])
    rare = [text for row, text in zip(rows, fields["classes"], strict=True) if row.get("frequency") == "r"]
    about = f"The {len(rows)} categories of {path.name}."
    return Task(name or path.stem, protocol="regions", templates=TEMPLATES, novel=rare, about=about, **fields)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
