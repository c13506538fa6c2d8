"""Classify somebody's own image files: which there are, what each shows, and a CSV of the answers."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import torch

from retroclip.classifiers import CalibratedClassifier, Classifier, fit_temperature, threshold_for
from retroclip.encoders import Encoder
from retroclip.errors import BadImageError, ModelError, RetroclipError, SourceError
from retroclip.evaluation import Samples
from retroclip.evaluation.classification import embed, head, shared_base
from retroclip.evaluation.leakage import has_references, near_sets, shielded, without
from retroclip.evaluation.metrics import expected_calibration_error
from retroclip.files import whole_file
from retroclip.memory import Memory
from retroclip.methods import DEFAULT, MethodContext, pick_method
from retroclip.pairs import decode_image
from retroclip.pairs.image import IMAGE_SUFFIXES
from retroclip.progress import counted
from retroclip.tasks import Task

if TYPE_CHECKING:
    from retroclip.fusion import MemoryEncoder, ReferenceEncoder

NONE = "none"
LEAST_LABELLED = 20
COLUMNS = ("file", "class", "probability")


@dataclass(frozen=True)
class Prediction:
    """`label` is a class of the task, or "none" if `probability` is too low; both are None where `error` tells why."""

    file: Path
    label: str | None = None
    probability: float | None = None
    error: str | None = None


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The given files, and every image file in the given folders and below, in order; SourceError if there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
            found += sorted(inside)
        elif path.exists():
            found.append(path)
        else:
            raise SourceError(f"{path} does not exist: name image files, or folders of them")
    if not found:
        raise SourceError(f"no image file in {', '.join(map(str, paths))}: name image files, or folders of them")
    return found


def build_classifier(
    encoder: Encoder, task: Task, *, method: str = DEFAULT, memory: Memory | None = None, seed: int = 0
) -> Classifier:
    """A classifier over the task's classes, made by the `default_method` of that memory where no method is named.

    Raises RetroclipError for a method that learns from labelled images, of which there are none here.
    """
    if memory is not None:
        memory.check_encoder(encoder)
    chosen = pick_method(method, memory, task)
    if chosen.needs_train:
        raise RetroclipError(
            f"method {chosen.name!r} learns from labelled images, which only `evaluate` and `compare` take: choose one"
            " that learns from a memory, such as stacked-linear"
        )
    model = chosen(MethodContext(encoder=encoder, memory=memory, task=task, seed=seed))
    return head(model, task)


@dataclass(frozen=True)
class Withheld:
    """What a classifier may be made from if it is to be calibrated: `left_out` of the `pairs` of a memory are hidden.

    `memory` is the one given, if any; where none was, the pairs are those that the encoder itself consults.
    """

    encoder: Encoder
    memory: Memory | None
    left_out: int = 0
    pairs: int = 0


def withhold(encoder: Encoder, memory: Memory | None, labelled: Samples) -> Withheld:
    """Hide the pairs that show one of the labelled images, or nearly, as `evaluate` does: they know what these show.

    The memory itself stays as it is. Raises SourceError for images that `calibrate` refuses and where no pair would
    remain, MemoryStoreError for a memory that another model made.
    """
    check_labelled(labelled)
    if memory is None and has_references(encoder):
        return _withheld_references(cast("ReferenceEncoder", encoder), labelled)
    if memory is not None:
        memory.check_encoder(encoder)
        looking, consulted = encoder, memory
    elif getattr(encoder, "memory", None) is not None:
        consulting = cast("MemoryEncoder", encoder)
        looking, consulted = consulting.base, consulting.memory
    else:
        return Withheld(encoder, None)
    hidden, pairs = near_sets(consulted, looking, [labelled]), len(consulted)
    if pairs and len(hidden) == pairs:
        raise _all_shown(consulted.path, labelled)
    rest = without(consulted, hidden)
    if memory is None and len(hidden):
        return Withheld(cast(Encoder, consulting.with_memory(rest)), None, len(hidden), pairs)
    return Withheld(encoder, None if memory is None else rest, len(hidden), pairs)


def _withheld_references(encoder: "ReferenceEncoder", labelled: Samples) -> Withheld:
    clean, hidden = shielded(cast(Encoder, encoder), [labelled])
    if len(hidden) == encoder.pairs:
        raise _all_shown("its reference set", labelled)
    return Withheld(clean, None, len(hidden), encoder.pairs)


def _all_shown(consulted: object, labelled: Samples) -> SourceError:
    what = f"every pair of {consulted} shows an image of {labelled.dataset}"
    return SourceError(f"{what}: calibrate on images that it doesn't hold")


def check_labelled(labelled: Samples) -> None:
    """Raise SourceError for fewer than `LEAST_LABELLED` images, or images with several labels."""
    if labelled.several or len(labelled) < LEAST_LABELLED:
        what = "has several labels an image" if labelled.several else f"has {len(labelled)} images"
        raise SourceError(
            f"{labelled.dataset} {what}: calibration needs {LEAST_LABELLED} and more, with one label each"
        )


@dataclass(frozen=True)
class Calibration:
    """What was fitted on n labelled images: their accuracy, calibration error before and after, and the threshold.

    The error after is that on the half of the images which the temperature it is measured with was not fitted on, both
    ways round. `answered` is the share of the images at or above the threshold, which is infinite where none keeps the
    error within what was asked for.
    """

    temperature: float
    n: int
    accuracy: float
    error_before: float
    error_after: float
    threshold: float = 0.0
    answered: float = 1.0


def calibrate(
    classifier: Classifier, labelled: Samples, *, max_error: float | None = None
) -> tuple[CalibratedClassifier, Calibration]:
    """A classifier whose probabilities fit labelled images, which should not be among those to be judged later.

    Nor may it have been made from them: `withhold` hides them from a memory first, and what is found holds for the
    classifier made from the rest. With `max_error` a threshold is chosen at which at most that share of its answers on
    these images is wrong. Raises SourceError for fewer than `LEAST_LABELLED` images, or images with several labels.
    """
    check_labelled(labelled)
    encoder = classifier.encoder
    shared = shared_base(encoder, labelled, None)
    with torch.no_grad():
        logits = classifier(embed(encoder, labelled, shared=shared, batch_size=64)).float()
    labels = torch.from_numpy(labelled.labels)
    # Drawn, since data often comes in an order.
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % 2 == 0
    crossed = torch.empty_like(logits)
    for half in (halves, ~halves):
        crossed[~half] = logits[~half] / fit_temperature(logits[half], labels[half])
    temperature = fit_temperature(logits, labels)
    correct = logits.argmax(dim=1) == labels
    unseen, confidence = (each.softmax(dim=1).amax(dim=1) for each in (crossed, logits / temperature))
    threshold = 0.0 if max_error is None else threshold_for(confidence, correct, max_error)
    found = Calibration(
        temperature=temperature,
        n=len(labels),
        accuracy=float(correct.float().mean()),
        error_before=expected_calibration_error(logits.softmax(dim=1).amax(dim=1).numpy(), correct.numpy()),
        error_after=expected_calibration_error(unseen.numpy(), correct.numpy()),
        threshold=threshold,
        answered=float((confidence >= threshold).float().mean()),
    )
    return CalibratedClassifier(classifier, temperature), found


def predict_files(
    classifier: Classifier, files: Sequence[Path], *, min_confidence: float = 0.0, batch_size: int = 64
) -> Iterator[Prediction]:
    """Classify image files in order, a batch at a time; one that can't be decoded gives a prediction with `error`.

    An image is shrunk as soon as it is decoded: of whole photos only as many are held as there are threads.
    """

    def pixels_of(file: Path) -> torch.Tensor | BadImageError:
        try:
            return classifier.encoder.preprocess(decode_image(file))
        except BadImageError as error:
            return error

    remaining = iter(files)
    decoding = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    with decoding as pool, counted(len(files), "images") as done:
        while batch := list(islice(remaining, batch_size)):
            prepared = list(pool.map(pixels_of, batch))
            pixels = [item for item in prepared if isinstance(item, torch.Tensor)]
            rows = iter(classifier.predict_images(torch.stack(pixels)) if pixels else ())
            for file, item in zip(batch, prepared, strict=True):
                if isinstance(item, BadImageError):
                    yield Prediction(file, error=str(item))
                    continue
                probability, index = next(rows).max(dim=0)
                if not torch.isfinite(probability):
                    raise ModelError(f"the model gave no finite score for {file}: check its weights")
                sure = float(probability) >= min_confidence
                yield Prediction(file, classifier.classes[int(index)] if sure else NONE, float(probability))
            done(len(batch))


def write_csv(predictions: Iterable[Prediction], out: Path | TextIO, *, tell: Callable[[str], None]) -> int:
    """Write `file,class,probability`; returns how many images could not be read, each of which `tell` gets a line for.

    The row of such an image has an empty class and probability. A file appears under its name only when it is whole.
    """
    unreadable = 0
    with _opened(out) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for prediction in predictions:
            if prediction.error is not None:
                unreadable += 1
                tell(f"{prediction.file}: {prediction.error}")
            shown = "" if prediction.probability is None else f"{prediction.probability:.4f}"
            writer.writerow([prediction.file, prediction.label or "", shown])
    return unreadable


@contextmanager
def _opened(out: Path | TextIO) -> Iterator[TextIO]:
    if not isinstance(out, Path):
        yield out
        return
    with whole_file(out) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as stream:
        yield stream
