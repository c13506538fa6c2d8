"""A classification problem in words: class names, templates, descriptions, metric. Everything else follows from it."""

from __future__ import annotations

import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from retroclip.errors import TaskError
from retroclip.files import write_whole
from retroclip.pairs.pair import label_key
from retroclip.tasks.shared import expand_classes
from retroclip.tasks.templates import DESCRIPTION, asks_oddly, described_template, filled, named_templates

Metric = Literal["top1", "mean-per-class", "map11", "map", "roc-auc"]
Protocol = Literal["classification", "regions", "detection", "segmentation", "video", "typographic-attack", "entities"]


class LabelIndex(dict[str, int]):
    """Label → class index; upper and lower case, '_', '/' and ' ' are the same on the way in and on look-up."""

    def __setitem__(self, label: str, index: int) -> None:
        super().__setitem__(label_key(label), index)

    def __getitem__(self, label: str) -> int:
        return super().__getitem__(label_key(label))

    def __contains__(self, label: object) -> bool:
        return super().__contains__(label_key(str(label)))

    def get(self, label: str, default: Any = None) -> Any:
        """The index of a label, or the default."""
        return super().get(label_key(label), default)


class Task(BaseModel):
    """Class names and how to ask for them.

    `display` is the name that goes into the templates where the label itself reads badly ("faces" → "human face").
    `synonyms` are other labels and other words for a class. `descriptions` are sentences that `described` puts after
    the filled templates (iCAR).
    `metric` is the one the data set is reported in; top1 stands beside it in every result. `protocol` is how the
    task is evaluated unless something else is asked for. `novel` are classes that an open-vocabulary training may not
    see; `ignored` are labels of the data set that belong to no class (crowded out, void) and are passed over.
    `reduce_zero_label` (mmseg's word): in masks whose values nothing names, classes count from 1, and 0 is none.

    Raises:
        TaskError: no classes, a class named twice, a template without {}, an unknown key, an unknown metric.

    >>> task = Task("pets", classes=["cat", "dog"], templates=["a photo of a {}, a type of pet."])
    >>> task.prompts("cat")
    ['a photo of a cat, a type of pet.']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    classes: list[str]
    templates: list[str] = ["a photo of a {}."]
    display: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    synonyms: dict[str, list[str]] = {}
    metric: Metric = "top1"
    protocol: Protocol = "classification"
    novel: list[str] = []
    ignored: list[str] = []
    reduce_zero_label: bool = False
    about: str = ""

    def __init__(self, name: str | None = None, **data: Any):
        fields = data if name is None else {"name": name, **data}
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise TaskError(f"task {fields.get('name', '?')!r}: {_first(error)}") from None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_classes(data) if isinstance(data, dict) else data

    @field_validator("classes", mode="before")
    @classmethod
    def _clean_classes(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            if odd := [name for name in value if isinstance(name, (dict, list, tuple))]:
                raise ValueError(f"{odd[0]!r} is not the name of a class: write one text for each")
            return [unicodedata.normalize("NFC", str(name)).strip() for name in value]
        return value

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("there are no classes; list at least one class name")
        seen: dict[str, str] = {}
        for name in value:
            if not name:
                raise ValueError("a class name is empty")
            if label_key(name) in seen:
                other = seen[label_key(name)]
                raise ValueError(f"class {name!r} is there twice" + (f" (also as {other!r})" if other != name else ""))
            seen[label_key(name)] = name
        return value

    @field_validator("templates", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_templates(value) if isinstance(value, str) else value

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, value: list[str]) -> list[str]:
        bad = next((template for template in value if "{}" not in template), None)
        if bad is not None or not value:
            raise ValueError(f"template {bad!r} has no {{}} for the class name" if value else "there are no templates")
        odd = next((t for t in value if asks_oddly(t)), None)
        if odd is not None:
            raise ValueError(
                f"template {odd!r}: a description follows as {DESCRIPTION!r}, as in 'a photo of a {{}}{DESCRIPTION}.'"
            )
        return value

    @model_validator(mode="after")
    def _check_keys(self) -> Task:
        for field in ("display", "descriptions", "synonyms", "novel"):
            unknown = [name for name in getattr(self, field) if name not in self.class_set]
            if unknown:
                raise ValueError(f"{field} names {unknown[0]!r}, which is not a class")
        return self

    @cached_property
    def class_set(self) -> frozenset[str]:
        """The class names, to look one up among many thousands."""
        return frozenset(self.classes)

    @cached_property
    def ignored_index(self) -> LabelIndex:
        """The labels that belong to no class, compared like class names."""
        index = LabelIndex()
        for label in self.ignored:
            index[label] = -1
        return index

    @cached_property
    def label_index(self) -> LabelIndex:
        """Class names, display names and synonyms → class index. A class's own name goes before others' synonyms."""
        index = LabelIndex()
        for names in (self.display, self.synonyms):
            for i, name in enumerate(self.classes):
                for other in _listed(names.get(name)):
                    if other not in index:
                        index[other] = i
        for i, name in enumerate(self.classes):
            index[name] = i
        return index

    def display_name(self, name: str) -> str:
        """What a class is called in prompts: by default its name, with spaces for the underscores of folders."""
        return self.display.get(name, name.replace("_", " "))

    def prompts(self, name: str, *, describe: bool = False) -> list[str]:
        """Every template filled with a class's name; `describe` adds ", " and its description (iCAR, Eq. 5).

        A described text ends without a full stop, as in training; a class without description is only named.

        Raises:
            TaskError: not a class of this task.
        """
        if name not in self.class_set:
            raise TaskError(f"task {self.name!r} has no class {name!r}")
        templates = [described_template(template) for template in self.templates] if describe else self.templates
        gloss = self.descriptions.get(name, "").strip().rstrip(".")
        return [filled(template, self.display_name(name), gloss) for template in templates]

    def described(self) -> Task:
        """The same task whose classes are named with their descriptions, as in training with them (iCAR, Eq. 5).

        Its templates say so: "a photo of a {}, {description}."

        Raises:
            TaskError: no class has a description.
        """
        if not self.descriptions:
            raise TaskError(
                f"task {self.name!r} has no descriptions: give them in a YAML file, `descriptions: {{class: sentence}}`"
            )
        return self.model_copy(update={"templates": [described_template(template) for template in self.templates]})

    def measured_by(self, metric: Metric | None) -> Task:
        """The same task with another metric; itself for None."""
        return self if metric is None else self.model_copy(update={"metric": metric})

    @classmethod
    def load(cls, reference: str | Path | Task) -> Task:
        """A catalogue name, a file (.yaml: a task or just a list of names; .txt: a name a line), or "cat, dog".

        Also a folder in CLIP_benchmark's layout, whose class names and templates are read.
        """
        from retroclip.tasks.catalogue import load_task

        return reference if isinstance(reference, Task) else load_task(reference)

    def to_yaml(self, path: str | Path) -> None:
        """Write the task to a file that `Task.load` reads; only what differs from the defaults."""
        record = self.model_dump(exclude_defaults=True)
        text = yaml.safe_dump(record, allow_unicode=True, sort_keys=False, width=110)
        write_whole(Path(path), text)


def _listed(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _first(error: ValidationError) -> str:
    """The first complaint in one line."""
    problems = error.errors()
    # A misspelt key comes first: it is why another one is missing.
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}; the keys are {', '.join(Task.model_fields)}"
    if problem["type"] == "missing" and where == "classes":
        return "there are no classes; list at least one class name"
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    return f"{where}: {message}" if where else message
