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
from retroclip.report.html import Report, render, write_report
from retroclip.report.tables import csv_table, group, markdown_table, rich_table

__all__ = [
    "Example",
    "MemorySummary",
    "Report",
    "RetrievedClass",
    "ShownPair",
    "collect_examples",
    "collect_retrieved",
    "csv_table",
    "group",
    "markdown_table",
    "render",
    "rich_table",
    "spread",
    "summarise_memory",
    "write_report",
]
