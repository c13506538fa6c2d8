"""Training verbs that go on where they were killed."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retroclip.cli.terminal import say


def save_once(encoder: Any, out: Path) -> None:
    """Save what was trained, and say so: the main process alone does; the others come to `resumable`'s end and wait."""
    from retroclip.training.distributed import is_main

    if is_main():
        encoder.save(out)
        say(f"{out}: {encoder.name}{told_training(encoder)}")


def told_training(encoder: Any) -> str:
    """ " (loss 2.303 at step 1, 1.204 at step 60; products in bf16)", as far as there is something to tell."""
    rows = encoder.history.rows if encoder.history else []
    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
    told = ["loss " + ", ".join(f"{row['loss']:.3f} at step {row['step']}" for row in ends)] if ends else []
    told += [f"products in {products}" for products in [getattr(encoder, "products", None)] if products]
    return f" ({'; '.join(told)})" if told else ""


@contextmanager
def resumable(out: Path, **settings: Any) -> Iterator[Path]:
    """A folder beside `out` for the checkpoints of a run with these settings; it goes when the run has ended well.

    A run with other settings has another folder, so that it never goes on from this one's weights. Under `torchrun`
    the processes leave together.
    """
    from retroclip.training.distributed import is_main, wait

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    folder = out.with_name(f".{out.name}.{digest}.checkpoint")
    yield folder
    wait()
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
