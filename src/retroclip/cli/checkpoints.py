"""Training verbs that go on where they were killed."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def resumable(out: Path, **settings: Any) -> Iterator[Path]:
    """A folder beside `out` for the checkpoints of a run with these settings; it goes when the run has ended well.

    A run with other settings has another folder, so that it never goes on from this one's weights.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    folder = out.with_name(f".{out.name}.{digest}.checkpoint")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
