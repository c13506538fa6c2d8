"""What a run was started with, kept beside its state: other settings would be ignored silently on the way on."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from retroclip.errors import RetroclipError
from retroclip.training.distributed import is_main, wait


def note_recipe(recipe: BaseModel, work: Path, state: Path, *, besides: set[str]) -> None:
    """Write the recipe into `work`, or compare it with the one there; the fields `besides` may differ.

    Raises RetroclipError when `state` is there and was made with other settings.
    """
    note = work / "recipe.json"
    settings = json.loads(recipe.model_dump_json(exclude=besides))
    if state.exists() and note.exists():
        before = json.loads(note.read_text())
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise RetroclipError(
                f"{work} holds a run with another {', another '.join(changed)}: set another `work`, or delete "
                f"{state} to start anew"
            )
        return
    if is_main():
        work.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings, indent=1) + "\n")
    wait()
