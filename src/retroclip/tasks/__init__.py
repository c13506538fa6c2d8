"""Tasks: class names, templates, descriptions and metric, and a catalogue of the field's data sets."""

from retroclip.pairs.pair import label_key
from retroclip.tasks.annotations import task_for, task_from_annotations
from retroclip.tasks.catalogue import catalogue
from retroclip.tasks.suite import Suite, list_suites, load_suite
from retroclip.tasks.task import LabelIndex, Task
from retroclip.tasks.templates import template_sets

__all__ = [
    "LabelIndex",
    "Suite",
    "Task",
    "catalogue",
    "label_key",
    "list_suites",
    "load_suite",
    "task_for",
    "task_from_annotations",
    "template_sets",
]
