from types import SimpleNamespace

import pytest

from retroclip.cli.checkpoints import resumable, told_training
from retroclip.cli.terminal import training_shown
from retroclip.training.loop import History


def test_kept_after_a_failure_and_found_again_by_the_same_settings_only(tmp_path):
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path / "model", lr=1) as first:
        first.mkdir()
        raise KeyboardInterrupt
    with resumable(tmp_path / "model", lr=2) as other:
        assert not other.exists()
    with resumable(tmp_path / "model", lr=1) as second:
        assert second == first
        assert second.exists()
    assert not first.exists()


def trained(*losses: float, products: str | None = None) -> SimpleNamespace:
    rows = [{"step": 10 * number, "seconds": 40.0 * number, "loss": loss} for number, loss in enumerate(losses, 1)]
    return SimpleNamespace(history=History(rows), products=products)


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (trained(3.1, 2.5, 2.25), " (loss 3.100 at step 10, 2.250 at step 30)"),
        (trained(3.1, 2.5, products="bf16"), " (loss 3.100 at step 10, 2.500 at step 20; products in bf16)"),
        (trained(3.1), " (loss 3.100 at step 10)"),
        (trained(), ""),
        (SimpleNamespace(history=None), ""),
    ],
)
def test_a_training_is_told_by_its_first_and_last_loss(encoder, told):
    assert told_training(encoder) == told


def test_a_log_gets_a_line_with_the_loss_once_a_minute(capsys):
    with training_shown("gated-image: [20] pairs") as show:
        for row in trained(3.1, 2.5, 2.25, 2.125).history.rows:
            show(row)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "gated-image: [20] pairs, step 20, loss 2.500, 0.2 steps/s",
        "gated-image: [20] pairs, step 40, loss 2.125, 0.2 steps/s",
    ]
