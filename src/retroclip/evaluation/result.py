"""The record of one evaluation: a figure together with the circumstances that make it mean something."""

import hashlib
import importlib.metadata
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from retroclip.errors import SourceError
from retroclip.evaluation.bootstrap import RESAMPLES, paired_gain
from retroclip.evaluation.outcome import Outcome
from retroclip.files import write_whole

NAMED_VERSIONS = (
    "retroclip", "torch", "torchvision", "open_clip_torch", "transformers", "timm", "faiss-cpu", "pylance", "numpy",
)  # fmt: skip
"""Packages that any figure may depend on: the last steps of preprocessing are torchvision's."""
REFERENCES = "reference set"
"""What `Result.memory` says of a model that looks its images up in pairs of its own (RA-CLIP)."""
OF_PROTOCOL = {"regions": ("faster-coco-eval",), "detection": ("faster-coco-eval",)}
OF_METRIC = {"roc-auc": ("scikit-learn",)}


def versions_behind(protocol: str, metric: str) -> dict[str, str]:
    """Versions of the packages that a figure depends on; those not installed are left out."""
    names = [*NAMED_VERSIONS, *OF_PROTOCOL.get(protocol, ()), *OF_METRIC.get(metric, ())]
    if protocol == "video" and "av" in sys.modules:  # frames in rows of a table need no decoder
        names.append("av")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Forgetting(BaseModel):
    """A customized model on a task it was not customized for, beside its base; `change` is in percentage points."""

    model_config = ConfigDict(extra="forbid")

    task: str
    dataset: str
    metric: str
    n: int
    base: float
    value: float
    change: float
    interval: tuple[float, float] | None = None


class Confusion(BaseModel):
    """`count` of the `of` samples (images, boxes, pixels) of class `truth` that were called `predicted`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    truth: str
    predicted: str
    count: float
    of: float


class Result(BaseModel):
    """One method on one task and data set. `value` and `interval` (bootstrap, 95 %) are in [0, 1], gains in points.

    `value` is the mean over `seeds` for trained methods, `sd` their standard deviation. `control` is the best method
    that used the same memory without training: what training must beat, by `control_gain` points. `intervals` are
    those of other `metrics`; `baselines` are the same metrics for what `baseline` names, chance or a majority. A method
    that failed has `error` and no value. `class_counts` are the samples of each class, `confusions` the most frequent
    mistakes (means over the seeds). `near_thumbnails` says whether a reference set keeps thumbnails to tell
    near-duplicates by, beside the cosine. `unlabelled` images of the data set weren't evaluated.
    `outcomes` (the answers themselves, one a seed) are not part of the JSON.

    >>> result = evaluate(encoder, task, "labelled/")
    >>> result.metric, result.n, sorted(result.per_class)
    ('top1', 20, ['cat', 'dog'])
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    task: str
    dataset: str
    split: str | None = None
    protocol: str = "classification"
    n: int
    method: str
    model: str
    metric: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    sd: float | None = None
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    baseline: str | None = None
    baselines: dict[str, float] = {}
    per_class: dict[str, float] = {}
    class_counts: dict[str, float] = {}
    confusions: list[Confusion] = []
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    top1_gain: float | None = None
    top1_gain_interval: tuple[float, float] | None = None
    control: str | None = None
    control_gain: float | None = None
    control_gain_interval: tuple[float, float] | None = None
    seconds: float = 0.0
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    trained_parameters: int = 0
    seed: int | None = None
    seeds: list[int] = []
    templates: list[str] = []
    missing_classes: list[str] = []
    rejected: list[str] = []
    unlabelled: int = 0
    memory: str | None = None
    memory_pairs: int | None = None
    excluded_near_duplicates: int | None = None
    near_threshold: float | None = None
    near_thumbnails: bool | None = None
    forgetting: list[Forgetting] = []
    history: list[dict[str, float]] = []
    options: dict[str, Any] = {}
    error: str | None = None
    fingerprint: str | None = None
    precision: str | None = None
    data_hash: str | None = None
    versions: dict[str, str] = {}
    date: str = Field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    outcomes: list[Outcome] = Field(default=[], exclude=True, repr=False)

    @model_validator(mode="after")
    def _with_versions(self) -> "Result":
        if "versions" not in self.model_fields_set:  # a stored result has its own
            self.versions = versions_behind(self.protocol, self.metric)
        return self

    @model_serializer(mode="wrap")
    def _without_nan(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # JSON has no NaN; a class without samples, and a figure or an interval over such classes, has no entry.
        return {name: without_nan(value) for name, value in serialise(self).items()}

    def made_by(self, encoder: Any, *, seconds: float, fit_seconds: float = 0.0, **known: Any) -> "Result":
        """A copy that says which model gave it in how many seconds, of them `fit_seconds` to train; `known`: fields."""
        model: dict[str, Any] = {"model": str(getattr(encoder, "name", ""))}
        model |= {name: getattr(encoder, name, None) for name in ("fingerprint", "precision")}
        times = {"seconds": seconds, "fit_seconds": fit_seconds, "predict_seconds": seconds - fit_seconds}
        return self.model_copy(update=model | times | known)

    def gain_over(
        self, base: "Result", metric: str | None = None, *, resamples: int = RESAMPLES
    ) -> tuple[float, tuple[float, float] | None]:
        """Gain over another result in points and its paired bootstrap 95 % interval.

        Needs both results' outcomes, so both must come from this process or from a comparison's `cache`.
        """
        if not (self.outcomes and base.outcomes):
            raise SourceError("a paired gain needs the predictions of both results: evaluate them in one comparison")
        return paired_gain(self.outcomes, base.outcomes, metric or self.metric, resamples=resamples)


def without_nan(value: Any) -> Any:
    """A value of a result without NaN and infinities: a dict loses the entry, an interval and a number become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        cleaned = {name: without_nan(entry) for name, entry in value.items()}
        return {name: entry for name, entry in cleaned.items() if entry is not None or value[name] is None}
    if isinstance(value, list | tuple):
        rows = [without_nan(entry) for entry in value]
        pair = len(value) == 2 and all(isinstance(entry, float) for entry in value)
        return None if pair and None in rows else type(value)(rows)
    return value


def hash_samples(images: Sequence[bytes], labels: Sequence[str]) -> str:
    """16 hex digits that name a data set by its image bytes and labels, in order."""
    digest = SampleHash()
    for image, label in zip(images, labels, strict=True):
        digest.add(image, label)
    return digest.hexdigest()


class SampleHash:
    """The same, of samples that come one after the other."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, image: bytes, label: str) -> None:
        text = label.encode()
        self._digest.update(b"%d %d " % (len(image), len(text)))
        self._digest.update(image)
        self._digest.update(text)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()[:16]


def save_results(results: Sequence[Result], path: str | Path) -> None:
    """Write results as a JSON list; an earlier file of that name stands until all of this one is written."""
    write_whole(Path(path), json.dumps([r.model_dump(mode="json") for r in results], indent=1) + "\n")


def find_results(paths: Sequence[str | Path]) -> list[Result]:
    """The results in files and in folders of `.json` files, in order; SourceError where there are none."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    results = [result for file in files for result in load_results(file)]
    if not results:
        raise SourceError(f"no results in {', '.join(map(str, paths))}: write some with --json, or evaluate --suite")
    return results


def load_results(path: str | Path) -> list[Result]:
    """Read what `save_results`, or `--json` of evaluate and compare, wrote; SourceError for anything else."""
    try:
        stored = json.loads(Path(path).read_text())
        return [Result.model_validate(row) for row in (stored if isinstance(stored, list) else [stored])]
    except FileNotFoundError as error:
        raise SourceError(f"no such file or folder of results: {path}") from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{path} is not a file of results (write one with --json): {reason}") from error
