"""The features of iCAR's ablation."""

import importlib
from pathlib import Path

import pytest
import torch

import retroclip
from retroclip.tasks import Task


def test_few_shots_of_icar_are_none_of_the_evaluated_images(memories, leaking, tiny_model, tmp_path, monkeypatch):
    icar, task = importlib.import_module("icar_features"), Task.load("flower-photos")
    monkeypatch.setattr(icar, "conv_features", lambda encoder, images: torch.ones(len(images), 2))
    encoder, source = retroclip.load(str(tiny_model(0)), precision="fp32"), leaking / "flower_photos.parquet"
    assert len(icar.Features(encoder, task, source, "train", tmp_path, 1).x) == 5
    shots = icar.Features(encoder, task, source, "train", tmp_path, 2, ("val", 2))
    assert shots.labels == [task.classes[row % 5] for row in range(2, 9)]
    assert len(icar.Features(encoder, task, source, "train", tmp_path, 2).x) == 9, "a file of others was taken"


def test_a_feature_file_of_icar_is_whole_or_not_there(memories, data, tmp_path, monkeypatch):
    icar, plain = importlib.import_module("icar_features"), torch.save
    monkeypatch.setattr(icar, "conv_features", lambda encoder, images: torch.ones(len(images), 2))

    def features():
        return icar.Features(None, Task.load("flower-photos"), data / "flower_photos.parquet", "train", tmp_path, 2)

    def killed(content, file):
        Path(file).write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        features()
    monkeypatch.setattr(torch, "save", plain)
    assert len(features().labels) == len(features().x) == 9
