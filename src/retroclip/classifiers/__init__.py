"""Classifiers over a frozen encoder: zero-shot, primed, cache adapters, linear heads, probes: all `Classifier`s."""

from retroclip.classifiers.cache import CacheClassifier, tip_adapter, tip_x
from retroclip.classifiers.calibration import CalibratedClassifier, fit_temperature, threshold_for
from retroclip.classifiers.classifier import Classifier, LinearClassifier
from retroclip.classifiers.exporting import as_module
from retroclip.classifiers.linear import real_linear
from retroclip.classifiers.naming import each_caption, memory_captions, most_frequent_names, real_prompt
from retroclip.classifiers.primed import primed
from retroclip.classifiers.probe import linear_probe, sgd_probe
from retroclip.classifiers.stacked import stacked_linear
from retroclip.classifiers.zero_shot import class_texts, zero_shot

__all__ = [
    "CacheClassifier",
    "CalibratedClassifier",
    "Classifier",
    "LinearClassifier",
    "as_module",
    "class_texts",
    "each_caption",
    "fit_temperature",
    "linear_probe",
    "memory_captions",
    "most_frequent_names",
    "primed",
    "real_linear",
    "real_prompt",
    "sgd_probe",
    "stacked_linear",
    "threshold_for",
    "tip_adapter",
    "tip_x",
    "zero_shot",
]
