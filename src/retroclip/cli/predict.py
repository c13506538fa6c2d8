"""`retroclip predict`"""

import sys
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import Describe, MemoryName, Method, ModelReference
from retroclip.cli.terminal import say, with_progress

if TYPE_CHECKING:
    from retroclip.prediction import Calibration


@with_progress
def predict(
    model: ModelReference,
    task: str,
    images: list[Path],
    /,
    *,
    memory: MemoryName | None = None,
    method: Method = None,
    describe: Describe = False,
    min_confidence: Annotated[
        float | None,
        Parameter(
            help="Below this probability, from 0 to 1, the class is `none`.", validator=validators.Number(gte=0, lte=1)
        ),
    ] = None,
    calibrate: str | None = None,
    max_error: Annotated[float | None, Parameter(validator=validators.Number(gte=0, lt=1))] = None,
    out: Annotated[Path | None, Parameter(help="A file instead of stdout.")] = None,
) -> int:
    """Classify images into a CSV: file, class, probability.

    An image that can't be read has an empty class and probability, and is named on stderr; exit status 1 if all are.

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, or `'cat, dog'`.
    images
        Image files and folders of them.
    memory
        The memory to use, for methods that need one.
    calibrate
        Labelled images (`photos.parquet#train`, a folder of class folders) to which the probabilities are fitted. The
        memory is used without the pairs that show one of them, or nearly.
    max_error
        Instead of --min-confidence: the class is `none` where, by those labelled images, more than this share of the
        answers would be wrong.
    """
    if max_error is not None and (calibrate is None or min_confidence is not None):
        raise WrongUsageError("predict: --max-error needs --calibrate, and goes without --min-confidence")
    from retroclip.encoders import load
    from retroclip.evaluation import load_samples
    from retroclip.evaluation.leakage import has_references
    from retroclip.evaluation.result import REFERENCES
    from retroclip.memory import Memory
    from retroclip.methods import DEFAULT
    from retroclip.prediction import build_classifier, find_images, predict_files, withhold, write_csv
    from retroclip.prediction import calibrate as calibrated
    from retroclip.progress import encodings_shown
    from retroclip.tasks import Task

    files, loaded = find_images(images), Task.load(task)
    loaded = loaded.described() if describe else loaded
    opened = Memory.open(memory) if memory else None
    encoder, labelled = load(model), None
    if calibrate is not None:
        labelled = load_samples(loaded, calibrate)
        withheld = withhold(encoder, opened, labelled)
        encoder, opened = withheld.encoder, withheld.memory
        if withheld.pairs:
            held = REFERENCES if opened is None and has_references(encoder) else "memory"
            say(f"{withheld.left_out} of the {held}'s {withheld.pairs} pairs show labelled images and are left out")
    classifier = build_classifier(encoder, loaded, method=method or DEFAULT, memory=opened)
    if opened is not None and method is None:
        say(f"answered by {classifier.name}, the default with this memory (--method names another)")
    threshold = min_confidence or 0.0
    if labelled is not None:
        classifier, found = calibrated(classifier, labelled, max_error=max_error)
        say(
            f"calibrated on {found.n} images: accuracy {100 * found.accuracy:.1f} %, calibration error"
            f" {100 * found.error_before:.1f} to {100 * found.error_after:.1f} %, temperature {found.temperature:.3g}"
        )
        if max_error is not None:
            threshold = found.threshold
            say(described_threshold(found, max_error))
    predictions = predict_files(classifier, files, min_confidence=threshold)
    with encodings_shown(out is not None or not sys.stdout.isatty()):  # rows at a terminal show how far it is
        unreadable = write_csv(predictions, sys.stdout if out is None else out, tell=say)
    if unreadable:
        say(f"{unreadable} of {len(files)} images could not be read")
    return 1 if unreadable == len(files) else 0


def described_threshold(found: "Calibration", max_error: float) -> str:
    """From which probability on there are answers, and how many; or that there are none."""
    if isinf(found.threshold):
        return f"no probability keeps the error on those images within {100 * max_error:g} %: every class is `none`"
    return f"answers from a probability of {found.threshold:.3f} on: {100 * found.answered:.1f} % of those images"
