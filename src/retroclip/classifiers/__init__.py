"""Classifiers over a frozen encoder: zero-shot, primed, cache adapters, linear. All of them are a `Classifier`."""

from retroclip.classifiers.cache import CacheClassifier, tip_adapter, tip_x
from retroclip.classifiers.classifier import Classifier, LinearClassifier
from retroclip.classifiers.linear import real_linear
from retroclip.classifiers.naming import most_frequent_names
from retroclip.classifiers.primed import primed
from retroclip.classifiers.zero_shot import class_texts, zero_shot

__all__ = [
    "CacheClassifier",
    "Classifier",
    "LinearClassifier",
    "class_texts",
    "most_frequent_names",
    "primed",
    "real_linear",
    "tip_adapter",
    "tip_x",
    "zero_shot",
]
