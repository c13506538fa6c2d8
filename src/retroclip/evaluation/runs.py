"""One run of one method (one seed): built, timed, evaluated; kept on disk so that a killed comparison goes on."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retroclip.classifiers import Classifier
from retroclip.evaluation.classification import answer
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.samples import Samples
from retroclip.files import write_whole

if TYPE_CHECKING:
    from retroclip.methods import Method, MethodContext
    from retroclip.tasks import Task

OnModel = Callable[[str, int, Any], None]
HISTORY_ROWS = 200


@dataclass(frozen=True)
class Run:
    """What one run left: its outcome on the task, those on other tasks, its cost, its training curve, its choices.

    `elsewhere` holds one outcome for each further task, for models that other tasks can be asked of (encoders).
    """

    outcome: Outcome
    elsewhere: list[Outcome] = field(default_factory=list)
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    trained_parameters: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)


def run_method(
    method: "Method",
    context: "MethodContext",
    samples: Samples,
    *,
    also: Iterable[tuple["Task", Samples]] = (),
    on_model: OnModel | None = None,
) -> Run:
    """Build a method's model and evaluate it; what it shares with other runs counts in full."""
    start = time.perf_counter()
    model = method(context)
    fit_seconds = time.perf_counter() - start + context.borrowed_seconds
    base = context.encoder
    answered = answer(model, context.task, samples, base=base)
    customized = not isinstance(model, Classifier) and model is not base
    elsewhere = [answer(model, task, other, base=base).outcome for task, other in also] if customized else []
    if on_model is not None:
        on_model(method.name, context.seed, model)
    return Run(
        outcome=answered.outcome,
        elsewhere=elsewhere,
        fit_seconds=fit_seconds,
        predict_seconds=answered.seconds,
        trained_parameters=int(getattr(model, "trained_parameters", 0) or 0),
        history=history_rows(getattr(model, "history", None)),
        chosen=dict(getattr(model, "chosen", {})),
    )


def history_rows(history: Any) -> list[dict[str, float]]:
    """A training history as at most `HISTORY_ROWS` rows of numbers, the last one included."""
    rows = list(getattr(history, "rows", history) or [])
    step = max(1, -(-len(rows) // HISTORY_ROWS))
    thinned = rows[::-1][::step][::-1]
    return [{name: float(value) for name, value in row.items() if isinstance(value, int | float)} for row in thinned]


class RunCache:
    """A folder of finished runs, valid only under the circumstances (model, memory, data, options) of their making."""

    def __init__(self, directory: Path | None, circumstances: Mapping[str, Any]) -> None:
        self.directory = directory
        text = json.dumps(circumstances, sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def get(self, method: str, seed: int) -> Run | None:
        """The run if it was finished under the same circumstances."""
        if self.directory is None or not (card_path := self._card(method, seed)).exists():
            return None
        card = json.loads(card_path.read_text())
        outcomes = [Outcome.load(self.directory / name) for name in card.pop("outcomes")]
        return Run(outcome=outcomes[0], elsewhere=outcomes[1:], **card)

    def put(self, method: str, seed: int, run: Run) -> None:
        """Write a run; its card comes last and whole, so a killed write counts as no run."""
        if self.directory is None:
            return
        names = []
        for position, outcome in enumerate([run.outcome, *run.elsewhere]):
            names.append(f"{method}-{seed}-{self.key}-{position}.npz")
            outcome.save(self.directory / names[-1])
        card = {
            "outcomes": names,
            "fit_seconds": run.fit_seconds,
            "predict_seconds": run.predict_seconds,
            "trained_parameters": run.trained_parameters,
            "history": run.history,
            "chosen": run.chosen,
        }
        write_whole(self._card(method, seed), json.dumps(card))

    def _card(self, method: str, seed: int) -> Path:
        assert self.directory is not None
        return self.directory / f"{method}-{seed}-{self.key}.json"
