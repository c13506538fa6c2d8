"""Evaluation protocols, one module each, and the comparison of every method on one problem."""

from retroclip.evaluation.bootstrap import bootstrap_interval, paired_gain
from retroclip.evaluation.classification import evaluate
from retroclip.evaluation.comparison import compare, prepare_context
from retroclip.evaluation.image_text import TASK_NAME as IMAGE_TEXT_RETRIEVAL
from retroclip.evaluation.image_text import evaluate_retrieval, retrieval_metrics
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Forgetting, Result, load_results, save_results
from retroclip.evaluation.samples import Samples, load_samples

__all__ = [
    "IMAGE_TEXT_RETRIEVAL",
    "Forgetting",
    "Outcome",
    "Result",
    "Samples",
    "bootstrap_interval",
    "compare",
    "evaluate",
    "evaluate_retrieval",
    "load_results",
    "load_samples",
    "paired_gain",
    "prepare_context",
    "retrieval_metrics",
    "save_results",
]
