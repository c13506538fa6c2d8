"""`retroclip predict`"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.options import ModelReference
from retroclip.cli.terminal import say


def predict(
    model: ModelReference,
    task: str,
    images: list[Path],
    /,
    *,
    memory: Path | None = None,
    method: Annotated[str, Parameter(help="A method of `retroclip compare`.")] = "zero-shot",
    min_confidence: Annotated[float, Parameter(help="Below this probability the class is `none`.")] = 0.0,
    out: Annotated[Path | None, Parameter(help="A file instead of stdout.")] = None,
) -> int:
    """Classify images into a CSV: file, class, probability.

    An image that can't be read has an empty class and probability, and is named on stderr; exit status 1 if all are.

    Parameters
    ----------
    task
        A catalogue name (`retroclip tasks`) or a YAML file.
    images
        Image files and folders of them.
    memory
        The memory to use, for methods that need one.
    """
    from retroclip.prediction import find_images, method_classifier, predict_files, write_csv

    files = find_images(images)
    classifier = method_classifier(model, task, method, memory)
    predictions = predict_files(classifier, files, min_confidence=min_confidence)
    unreadable = write_csv(predictions, out if out is not None else sys.stdout, tell=say)
    if unreadable:
        say(f"{unreadable} of {len(files)} images could not be read")
    return 1 if unreadable == len(files) else 0
