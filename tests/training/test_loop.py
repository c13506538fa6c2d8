import math
from pathlib import Path

import pytest
import torch
from torch import nn

from retroclip.errors import DivergedError
from retroclip.training.loop import History, fit, parameter_groups, warmup_cosine


class Regression(nn.Module):
    """Linear regression with dropout, so that a resumed run must restore the random state too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.drop = nn.Linear(4, 1), nn.Dropout(0.5)

    def forward(self, batch):
        x, y = batch
        return {"loss": (self.linear(self.drop(x)) - y).square().mean()}


def batches(epoch: int):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(7):
        x = torch.randn(16, 4, generator=generator)
        yield x, x.sum(1, keepdim=True)


def run(checkpoint: Path | None, stop_at: int | None = None) -> tuple[Regression, History]:
    objective = Regression()
    taken = 0

    def stop() -> None:
        nonlocal taken
        taken += 1
        if taken == stop_at:
            raise KeyboardInterrupt

    history = fit(
        objective,
        batches,
        steps=40,
        lr=0.05,
        warmup=5,
        checkpoint=checkpoint,
        save_every=6,
        log_every=1,
        after_step=stop,
    )
    return objective, history


def test_schedule_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, steps=100, warmup=10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert factors[100] == pytest.approx(0.0, abs=1e-12)


def test_loss_falls():
    _, history = run(None)
    assert sum(history["loss"][-5:]) < 0.7 * sum(history["loss"][:5])


@pytest.mark.parametrize("stop_at", [8, 13, 31])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, stop_at):
    whole, whole_history = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", stop_at=stop_at)
    again, history = run(tmp_path / "state")
    assert torch.equal(again.linear.weight, whole.linear.weight)
    assert history["loss"] == whole_history["loss"]
    assert history["lr"] == whole_history["lr"]


def test_vectors_are_not_decayed_and_scales_apply():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    module[0].bias.requires_grad_(False)
    groups = parameter_groups(
        module, lr=1.0, weight_decay=0.1, lr_scale=lambda name: 0.5 if name == "0.weight" else 1.0
    )
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [(0.5, 0.1, 1), (1.0, 0.0, 2)]


def test_a_diverged_loss_stops_the_run():
    class Diverged(Regression):
        def forward(self, batch):
            return {"loss": super().forward(batch)["loss"] * float("nan")}

    with pytest.raises(DivergedError, match="step 10"):
        fit(Diverged(), batches, steps=20, lr=0.1)


def test_no_batches_is_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(Regression(), lambda epoch: [], steps=3, lr=0.1)
