"""What a method may use, and what the runs of a comparison share."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.evaluation.samples import Samples
    from retroclip.evaluation.shots import Shots
    from retroclip.memory import Memory
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task

RETRIEVAL: dict[str, Any] = {"search": ("t2t", "t2i"), "k": 50}
"""How `MethodContext.retrieved` is retrieved unless `options["retrieve"]` says otherwise (REACT's two modes)."""


@dataclass
class MethodContext:
    """What a method may use.

    `memory` is already without the pairs listed in `excluded_ids` (near-duplicates of evaluation images: cosine over
    `near_threshold`). `train` are labelled images, none of them evaluated; a method gets `shots` a class of them (None:
    all), drawn by the seed. `options` maps a method's name to keyword arguments of the function beneath it, and
    `retrieve` to those of `retrieval.retrieve`.
    """

    encoder: "Encoder"
    memory: "Memory | None"
    task: "Task"
    seed: int = 0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    excluded_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    near_threshold: float | None = None
    train: "Samples | None" = None
    shots: int | None = None
    borrowed_seconds: float = 0.0
    _shared: dict[Any, tuple[Any, float]] = field(default_factory=dict, repr=False)
    _used: set[Any] = field(default_factory=set, repr=False)

    def share(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gives, made once for all runs of a comparison.

        A run that finds it made is charged its cost all the same, in `borrowed_seconds`, once.
        """
        if key in self._shared:
            product, seconds = self._shared[key]
            if key not in self._used:
                self.borrowed_seconds += seconds
        else:
            start, borrowed = time.perf_counter(), self.borrowed_seconds
            product = make()
            seconds = time.perf_counter() - start + self.borrowed_seconds - borrowed
            self._shared[key] = product, seconds
        self._used.add(key)
        return product

    @property
    def retrieved(self) -> "Retrieved":
        """The pairs that `RETRIEVAL` finds for the task, retrieved at first use and shared by all methods."""
        from retroclip.retrieval import retrieve

        settings = RETRIEVAL | self.options.get("retrieve", {})
        memory = self.known_memory
        return self.share("retrieved", lambda: retrieve(memory, self.task, encoder=self.encoder, **settings))

    @property
    def captions(self) -> "list[tuple[str, ...]]":
        """The captions of all of the memory's pairs, read at first use and shared by all methods."""
        from retroclip.classifiers import memory_captions

        memory = self.known_memory
        return self.share("captions", lambda: memory_captions(memory))

    @property
    def known_memory(self) -> "Memory":
        """The memory, for methods that are only called with one; RetroclipError otherwise."""
        if self.memory is None:
            raise RetroclipError("there is no memory to work with: name one with --memory")
        return self.memory

    @property
    def labelled(self) -> "Shots":
        """The labelled images that this run may learn from; RetroclipError where there are none."""
        from retroclip.evaluation.shots import take_shots

        train = self.train
        if train is None:
            raise RetroclipError("there are no labelled images to learn from: name them with --train")
        return self.share(("shots", self.seed), lambda: take_shots(train, self.shots, seed=self.seed))

    def for_run(self, seed: int) -> "MethodContext":
        """The same context for one run of one method: another seed, the same shared products."""
        return replace(self, seed=seed, borrowed_seconds=0.0, _used=set())

    def options_for(self, method: str) -> dict[str, Any]:
        """The keyword arguments given for a method."""
        return dict(self.options.get(method, {}))
