"""Epochs of the trainers that evaluation runs (detector, segmenter, video): a killed one goes on after its last."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from retroclip.errors import RetroclipError
from retroclip.files import whole_file


class Stateful(Protocol):
    """What PyTorch's modules, optimisers and schedules have in common."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def state_file(work: str | Path, kind: str, about: Mapping[str, Any]) -> Path:
    """Where in the folder `work`, made if need be, a training keeps its state: another training, another file.

    `about` is everything that its result depends on.
    """
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{digest[:16]}.pt"


def epochs_left(count: int, state: Path | None, generator: torch.Generator, **parts: Stateful) -> Iterator[int]:
    """Numbers of the epochs still to do, of `count`, from 0.

    After each, the `parts`, `generator` and the global random state are kept in the file `state`; where it is there,
    they are taken from it first, and the end is that of an undisturbed run. Without a file nothing is kept.
    Raises RetroclipError where the file can't be read.
    """
    done = 0
    if state is not None and state.exists():
        try:
            kept = torch.load(state, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            raise RetroclipError(f"{state} is no readable state of a training: delete it to start anew") from None
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        generator.set_state(kept["generator"])
        torch.set_rng_state(kept["random"])
        done = kept["done"]
    for epoch in range(done, count):
        yield epoch
        if state is not None:
            kept = {name: part.state_dict() for name, part in parts.items()}
            kept |= {"generator": generator.get_state(), "random": torch.get_rng_state(), "done": epoch + 1}
            with whole_file(state) as unfinished:
                torch.save(kept, unfinished)
