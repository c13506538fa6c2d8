"""`retroclip predict`"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.options import Method, ModelReference
from retroclip.cli.terminal import say


def predict(
    model: ModelReference,
    task: str,
    images: list[Path],
    /,
    *,
    memory: Path | None = None,
    method: Method = None,
    min_confidence: Annotated[float, Parameter(help="Below this probability the class is `none`.")] = 0.0,
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
    """
    from retroclip.encoders import load
    from retroclip.memory import Memory
    from retroclip.prediction import build_classifier, find_images, predict_files, write_csv
    from retroclip.tasks import Task

    files, loaded = find_images(images), Task.load(task)
    opened = Memory.open(memory) if memory else None
    classifier = build_classifier(load(model), loaded, method=method, memory=opened)
    predictions = predict_files(classifier, files, min_confidence=min_confidence)
    unreadable = write_csv(predictions, sys.stdout if out is None else out, tell=say)
    if unreadable:
        say(f"{unreadable} of {len(files)} images could not be read")
    return 1 if unreadable == len(files) else 0
