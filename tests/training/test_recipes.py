"""The recipe with all that REACT's authors publish."""

import importlib

import pytest
import torch

from retroclip.training import customize
from retroclip.training.examples import prepare
from retroclip.training.loop import History

tuned = importlib.import_module("retroclip.training.customize")  # the package's name for it is the function


def test_one_name_gives_all_that_reacts_authors_publish(encoder, retrieved, monkeypatch):
    """The paper's supplement, and the commands of the authors' code where it says more."""
    told: dict = {}
    monkeypatch.setattr(
        tuned, "fit", lambda objective, batches, **given: told.update(given, batches=batches) or History()
    )
    monkeypatch.setattr(tuned, "prepare", lambda *args, **given: told.update(given) or prepare(*args, **given))
    customize(encoder, retrieved, recipe="react-published")
    assert (told["lr"], told["weight_decay"], told["betas"], told["eps"]) == (5e-4, 0.05, (0.9, 0.98), 1e-6)
    assert (told["views"], told["augmentation"]) == ("anew", "react")
    assert told["steps"] == 32 and told["warmup"] == 2  # 24 pairs are one batch of 4,096; 6.4 % of the steps
    first, second = (next(iter(told["batches"](epoch)))["images"] for epoch in range(2))
    assert first.shape == second.shape and not torch.equal(first, second)
    customize(encoder, retrieved, recipe="react-published", tuning="locked-text", epochs=2, batch_size=12)
    assert (told["lr"], told["steps"]) == (5e-5, 4)


def test_gates_get_more_epochs_on_few_pairs_unless_told_how_many(encoder, retrieved):
    def steps(**options):
        return customize(encoder, retrieved, **options).history["step"][-1]

    assert steps() == 30  # one batch an epoch
    assert steps(batch_size=2) == 5 * -(-len(retrieved) // 2)
    assert steps(epochs=1) == 1
    assert steps(tuning="locked-text") == 5  # a whole tower has learnt such pairs by heart by then


def test_the_published_recipe_learns_and_resumes(encoder, retrieved, tmp_path):
    options = {"recipe": "react-published", "epochs": 4, "batch_size": 12, "lr": 2e-2, "micro_batch": 5}
    whole = customize(encoder, retrieved, **options)
    assert whole.history["loss"][-1] < whole.history["loss"][0]
    assert set(whole.history.rows[0]) >= {"contrast"} and "classes" not in whole.history.rows[0]

    def kill(row):
        if row["step"] == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        customize(encoder, retrieved, **options, checkpoint=tmp_path / "state", on_log=kill)
    resumed = customize(encoder, retrieved, **options, checkpoint=tmp_path / "state").model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.model.state_dict().items())
