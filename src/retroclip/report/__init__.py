"""Reports: the comparison as a table, and the HTML page with the evidence behind it."""

from retroclip.report.evidence import (
    Example,
    MemorySummary,
    RetrievedClass,
    ShownPair,
    collect_examples,
    collect_retrieved,
    spread,
    summarise_memory,
)
from retroclip.report.groups import group, tell_apart
from retroclip.report.html import Report, render, write_report
from retroclip.report.labels import row_labels
from retroclip.report.mistakes import Changes, ConfusedImages, collect_confused, count_changes
from retroclip.report.overview import Column, Overview, overview
from retroclip.report.sheet import csv_table
from retroclip.report.tables import markdown_table, overview_table, rich_table

__all__ = [
    "Changes",
    "Column",
    "ConfusedImages",
    "Example",
    "MemorySummary",
    "Overview",
    "Report",
    "RetrievedClass",
    "ShownPair",
    "collect_confused",
    "collect_examples",
    "collect_retrieved",
    "count_changes",
    "csv_table",
    "group",
    "markdown_table",
    "overview",
    "overview_table",
    "render",
    "rich_table",
    "row_labels",
    "spread",
    "summarise_memory",
    "tell_apart",
    "write_report",
]
