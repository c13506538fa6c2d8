"""`retroclip export`"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import MemoryName, Method, ModelReference
from retroclip.cli.terminal import say, with_progress


@with_progress
def export(
    model: ModelReference,
    /,
    *,
    out: Path,
    format: Annotated[Literal["onnx", "open_clip"], Parameter(help="What to write.")] = "onnx",
    task: str | None = None,
    memory: MemoryName | None = None,
    method: Method = None,
) -> None:
    """Write a model so that it runs without retroclip.

    As ONNX: the image tower, from preprocessed pixels to embeddings, and with a task to its classes' probabilities;
    checked number by number in onnxruntime. As open_clip: both towers, with gates merged into plain layers; for models
    of open_clip's own towers, not for the builtin and what is made of it.

    Parameters
    ----------
    out
        A directory: `model.onnx` and `card.json` (preprocessing, classes), or an open_clip model.
    task
        Classes to put behind the image tower (ONNX): a catalogue name, a YAML file, or `'cat, dog'`.
    memory
        For a --method that makes its classifier from a memory: primed, real-linear, stacked-linear, ….
    """
    if format == "open_clip" and (task or memory or method):
        raise WrongUsageError("export: an open_clip model has no classes: leave out --task, --memory and --method")
    if task is None and (memory or method):
        raise WrongUsageError("export: --memory and --method are for the classes of a --task")

    from retroclip.classifiers import as_module
    from retroclip.encoders import load
    from retroclip.encoders.export import export_onnx
    from retroclip.encoders.merging import merge_gates
    from retroclip.memory import Memory
    from retroclip.methods import DEFAULT
    from retroclip.prediction import build_classifier
    from retroclip.tasks import Task

    encoder = load(model, precision="fp32")
    if format == "open_clip":
        say(f"model: {merge_gates(encoder).save(out)}")
        return
    if task is None:
        difference = export_onnx(encoder, out)
    else:
        opened = Memory.open(memory) if memory else None
        classifier = build_classifier(encoder, Task.load(task), method=method or DEFAULT, memory=opened)
        difference = export_onnx(classifier.encoder, out, head=as_module(classifier), classes=classifier.classes)
    say(f"model: {out} (largest difference to the model itself: {difference:.1e})")
