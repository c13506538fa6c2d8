import pytest
import torch

from retroclip.classifiers import class_texts
from retroclip.errors import RetroclipError
from retroclip.training import fine_tune

UNMOVED = {"epochs": 1, "lr": 0.0, "views": 0}


def test_class_weights_start_from_the_texts_or_at_random(encoder, task, held_out):
    images, labels = held_out
    text = fine_tune(encoder, task, images, labels, **UNMOVED)
    torch.testing.assert_close(text.weights, class_texts(encoder, task), rtol=0, atol=1e-6)
    first, again, other = (
        fine_tune(encoder, task, images, labels, init="random", seed=seed, **UNMOVED).weights for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(3))
    with pytest.raises(RetroclipError, match="not from 'zeros'"):
        fine_tune(encoder, task, images, labels, init="zeros")


def test_a_random_start_learns(encoder, task, held_out):
    images, labels = held_out
    tuned = fine_tune(encoder, task, images, labels, init="random", views=0, epochs=15, lr=2e-2)
    predicted = tuned(tuned.encoder.encode_images(images)).argmax(1)
    assert float((predicted == labels).float().mean()) > 0.9


def test_stopped_on_the_way_and_called_again_it_ends_with_the_same_weights(encoder, task, held_out, tmp_path):
    """As after a SIGKILL (`test_killed.py` has it of the loop beneath): nothing but the checkpoint is left."""
    images, labels = held_out
    options = {"init": "random", "views": 1, "epochs": 4, "batch_size": 10, "seed": 3}
    whole = fine_tune(encoder, task, images, labels, **options)
    steps = []

    def stop(row):
        steps.append(row["step"])
        if row["step"] == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fine_tune(encoder, task, images, labels, checkpoint=tmp_path / "state", on_log=stop, **options)
    again = fine_tune(
        encoder,
        task,
        images,
        labels,
        checkpoint=tmp_path / "state",
        on_log=lambda row: steps.append(row["step"]),
        **options,
    )
    assert steps == [*range(1, 8), *range(7, 13)]
    assert torch.equal(whole.weights, again.weights)
    resumed = again.encoder.model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.encoder.model.state_dict().items())
