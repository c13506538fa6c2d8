"""Trainings that evaluation runs, stopped in an epoch and called again: the weights of an undisturbed run."""

import numpy as np
import pytest
import torch
from PIL import Image

from retroclip.errors import RetroclipError
from retroclip.tasks import Task
from retroclip.training.detector import train_detector
from retroclip.training.epochs import epochs_left, state_file
from retroclip.training.maskformer import train_maskformer
from retroclip.training.segmenter import train_segmenter
from retroclip.training.video import VideoTower, train_video

TASK = Task("colours", classes=["red", "green", "blue"], novel=["blue"])


def images(count):
    """Squares of red or green on grey, with their boxes and masks."""
    made, boxes, masks = [], [], []
    for i in range(count):
        pixels, mask = np.full((32, 32, 3), 128, np.uint8), np.full((32, 32), 255)
        rows, columns = slice(i, i + 16), slice(2 * i, 2 * i + 16)
        pixels[rows, columns] = [(250, 0, 0), (0, 250, 0)][i % 2]
        mask[rows, columns] = i % 2
        made.append(Image.fromarray(pixels))
        boxes.append(np.array([[2 * i, i, 16, 16]], float))
        masks.append(mask)
    return made, boxes, masks


def train(kind, encoder, **options):
    shown, boxes, masks = images(6)
    labels = [i % 2 for i in range(6)]
    if kind == "video":
        tower = VideoTower(encoder, frames=2, size=32, seed=0)
        return train_video(tower, encoder, TASK, [[image] * 2 for image in shown], labels, batch=4, **options)
    if kind == "detector":
        return train_detector(encoder, TASK, shown, boxes, [np.array([i]) for i in labels], size=32, **options)
    trainer = train_segmenter if kind == "maskclip+" else train_maskformer
    return trainer(encoder, TASK, shown, masks, size=32, batch=4, **options)


def stop_in_the_second(epoch, loss):
    if epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["detector", "maskclip+", "maskformer", "video"])
def test_stopped_and_called_again_it_ends_with_the_same_weights(kind, encoder, tmp_path):
    expected = train(kind, encoder, epochs=3, seed=3).state_dict()
    state = state_file(tmp_path / "work", kind, {"seed": 3})
    with pytest.raises(KeyboardInterrupt):
        train(kind, encoder, epochs=3, seed=3, state=state, on_epoch=stop_in_the_second)
    torch.manual_seed(99)  # another process has other random numbers
    told = []
    found = train(kind, encoder, epochs=3, seed=3, state=state, on_epoch=lambda epoch, loss: told.append(epoch))
    assert told == [1, 2]
    assert all(torch.equal(found.state_dict()[name], value) for name, value in expected.items())
    again = train(kind, encoder, epochs=3, seed=3, state=state, on_epoch=lambda epoch, loss: told.append(epoch))
    assert told == [1, 2] and all(torch.equal(again.state_dict()[name], value) for name, value in expected.items())


def test_a_damaged_state_is_told(tmp_path):
    state = state_file(tmp_path, "a", {})
    for content in (b"", b"not one"):
        state.write_bytes(content)
        with pytest.raises(RetroclipError, match="delete it to start anew"):
            list(epochs_left(2, state, torch.Generator()))


def test_another_training_has_another_file(tmp_path):
    files = {state_file(tmp_path / "new" / "folder", *about) for about in (("a", {"x": 1}), ("a", {"x": 2}), ("b", {}))}
    assert len(files) == 3 and {file.parent for file in files} == {tmp_path / "new" / "folder"}
    assert state_file(tmp_path, "a", {"x": 1, "y": 2}) == state_file(tmp_path, "a", {"y": 2, "x": 1})
