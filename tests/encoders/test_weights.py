"""Weights come from any file that holds tensors, and nothing else in a file is run."""

import pickle

import pytest
import torch
from torch import nn

from retroclip.encoders import load
from retroclip.encoders.weights import fit, read_weights, strip
from retroclip.errors import ModelError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.0)}


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "epoch": 4, "optimizer": {"lr": 0.1}},
        {"state_dict": {f"module.{k}": v for k, v in STATE.items()}},
        {"model": {f"module._orig_mod.{k}": v for k, v in STATE.items()}},
        {"model_state_dict": {f"_orig_mod.module.{k}": v for k, v in STATE.items()}},
        STATE | {"epoch": 3},
    ],
)
def test_wrappers_and_prefixes_of_training_loops(checkpoint):
    found = strip(checkpoint)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_what_holds_no_weights():
    for nothing in ({}, [], {"epoch": 3}, 7):
        with pytest.raises(ModelError, match="holds no"):
            strip(nothing)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_a_pickle_with_code_is_refused(tmp_path):
    for name, write in (("a.pt", torch.save), ("b.bin", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        write({"state_dict": STATE, "more": Payload()}, tmp_path / name)
        with pytest.raises(ModelError, match="can't be read as weights"):
            read_weights(tmp_path / name)


def test_a_program_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "openai.pt"))
    with pytest.raises(ModelError, match="TorchScript"):
        read_weights(tmp_path / "openai.pt")


@pytest.mark.parametrize("name", ["text.safetensors", "text.pt"])
def test_other_files_are_refused(name, tmp_path):
    for content in (b"", b"hello, this is no checkpoint"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="can't be read as weights"):
            read_weights(tmp_path / name)


def test_misfits_name_the_first_tensors(fresh):
    model = fresh("vit").model
    state = model.state_dict()
    with pytest.raises(ModelError, match=r"lacks ln_final.bias\b"):
        fit(model, {k: v for k, v in state.items() if k != "ln_final.bias"}, "it")
    with pytest.raises(ModelError, match="also holds more"):
        fit(model, state | {"more": torch.zeros(2)}, "it")
    with pytest.raises(ModelError, match=r"other shapes for visual\.proj"):
        fit(model, state | {"visual.proj": torch.zeros(2)}, "it")


def test_weights_of_another_architecture_are_one_line(model_directory, architecture, tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="doesn't fit the architecture") as caught:
        load(f"{architecture}@{tmp_path / 'net.pt'}")
    assert "\n" not in str(caught.value)
