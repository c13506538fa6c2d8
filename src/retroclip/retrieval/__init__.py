"""From a task and a memory to the pairs that serve the task: search modes, filters, deduplication, selection."""

from retroclip.retrieval.matched import enough_matched, matched_pairs
from retroclip.retrieval.neighbours import Neighbours, neighbours
from retroclip.retrieval.retrieve import retrieve
from retroclip.retrieval.retrieved import Retrieved
from retroclip.retrieval.select import ClassNames, named_classes

__all__ = [
    "ClassNames",
    "Neighbours",
    "Retrieved",
    "enough_matched",
    "matched_pairs",
    "named_classes",
    "neighbours",
    "retrieve",
]
