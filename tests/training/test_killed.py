"""Customization and fusion killed by SIGKILL in the middle, and called again: the weights of an undisturbed run.

Pre-training's recipes are killed in `pretraining/test_train.py`.
"""

import os
import signal
import subprocess
import sys

import pytest
import torch

import retroclip
from retroclip.tasks import Task
from retroclip.training import customize, fuse

TASK = Task("colours", classes=["red", "green", "blue"])
VERBS = {
    "gated-image": {"tuning": "gated-image", "epochs": 6, "batch_size": 12, "gates": 2, "views": 1},
    "full": {"tuning": "full", "epochs": 4, "batch_size": 12, "micro_batch": 5},
    "reco": {"kind": "reco", "k": 4, "epochs": 12, "batch_size": 12},
    "ra-clip": {"kind": "ra-clip", "k": 4, "epochs": 12, "batch_size": 12, "heads": 2},
}
KILL_AT = 7
SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_killed import trained
def kill(row):
    if row["step"] == {KILL_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
trained(*sys.argv[2:5], checkpoint=sys.argv[5], on_log=kill)
"""


def trained(verb, model, memory, *, checkpoint=None, on_log=None):
    """What a verb makes, as a dict of its tensors."""
    from pathlib import Path

    torch.set_num_threads(1)  # sums of another order differ in their last bits
    encoder, opened = retroclip.load(model, precision="fp32"), retroclip.Memory.open(memory)
    options = VERBS[verb] | {"checkpoint": Path(checkpoint) if checkpoint else None, "on_log": on_log, "seed": 3}
    if "kind" in options:
        return fuse(encoder, opened, **options).fusion.state_dict()
    found = retroclip.retrieve(opened, TASK, encoder=encoder, k=8)
    return customize(encoder, found, **options).model.state_dict()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("verb", VERBS)
def test_killed_and_called_again_it_ends_with_the_same_weights(verb, tiny_model, make_pairs, tmp_path):
    model, memory, state = str(tiny_model(0)), str(tmp_path / "memory"), str(tmp_path / "state")
    retroclip.Memory.create(memory, retroclip.load(model, precision="fp32"), [make_pairs(8)])
    whole = trained(verb, model, memory)
    here = str(os.path.dirname(__file__))
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, here, verb, model, memory, state],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert (tmp_path / "state" / "progress.json").exists()
    steps = []
    again = trained(verb, model, memory, checkpoint=state, on_log=lambda row: steps.append(row["step"]))
    assert 1 < steps[0] <= KILL_AT < steps[-1]
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
