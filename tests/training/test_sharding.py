"""Two gloo processes that share weights and optimiser state out train what one process trains, killed or not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retroclip.errors import RetroclipError
from retroclip.training.loop import fit

MODULE = '''
import torch, torch.nn.functional as F
from torch import nn
from retroclip.training.distributed import gathered, own_rows
from retroclip.training.losses import clip_loss

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.net = nn.LayerNorm(6), nn.Linear(6, 6)
    def forward(self, x):
        return x + self.net(self.norm(x))

class Objective(nn.Module):
    """Two towers of blocks and a temperature; each process encodes its rows, all compute the loss."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (nn.ModuleList([Block(), Block()]) for _ in range(2))
        self.head, self.scale = nn.Linear(6, 3, bias=False), nn.Parameter(torch.tensor(1.0))
    def embed(self, blocks, x):
        own = x[own_rows(len(x))]
        for block in blocks:
            own = block(own)
        return gathered(F.normalize(self.head(own), dim=-1), len(x))
    def forward(self, batch):
        u, v = self.embed(self.image, batch[0]), self.embed(self.text, batch[1])
        return {"loss": clip_loss(u, v, self.scale.exp())}
    @torch.no_grad()
    def clamp(self):
        self.scale.clamp_(0, 1.02)

def batches(epoch):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(3):
        yield torch.randn(2, 7, 6, generator=generator)
'''
SCRIPT = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from sharded_two import Objective, batches
from retroclip.errors import RetroclipError
from retroclip.training import distributed
from retroclip.training.loop import fit
distributed.start()
where = Path(sys.argv[1])
options = dict(steps=8, lr=0.05, warmup=2, grad_clip=0.5, log_every=2, save_every=2, shard=True)

class Stop(Exception):
    pass

def run(checkpoint, stop=None):
    objective, taken = Objective(), [0]
    def after():
        objective.clamp()
        taken[0] += 1
        if taken[0] == stop:
            raise Stop
    try:
        fit(objective, batches, after_step=after, checkpoint=checkpoint, **options)
    except Stop:
        return None
    return objective.state_dict()

whole = run(where / "whole")
run(where / "killed", stop=5)
again = run(where / "killed")
assert all(torch.equal(whole[name], again[name]) for name in whole)
ended = run(where / "whole")  # killed after its last checkpoint: there is no step left
assert all(torch.equal(whole[name], ended[name]) for name in whole)
try:
    fit(Objective(), batches, checkpoint=where / "one process", **options)
except RetroclipError as error:
    assert "was saved whole" in str(error)
else:
    raise AssertionError("a whole state was taken for shares")
torch.save(whole, where / f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


def test_shares_train_what_one_process_trains(tmp_path, monkeypatch, in_two_processes):
    (tmp_path / "sharded_two.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from sharded_two import Objective, batches

    options = {"steps": 8, "lr": 0.05, "warmup": 2, "grad_clip": 0.5}
    alone = Objective()
    fit(alone, batches, after_step=alone.clamp, checkpoint=tmp_path / "one process", **options)
    in_two_processes(SCRIPT, tmp_path)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in alone.state_dict().items():
        for own in shares:
            torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-5)
    start = Objective().state_dict()
    assert all(not torch.equal(start[name], shares[0][name]) for name in start)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3)

    def forward(self, batch):
        return {"loss": F.mse_loss(self.linear(batch), batch)}


def test_shares_are_not_taken_for_a_whole_state(tmp_path):
    options = {"steps": 4, "lr": 0.1, "checkpoint": tmp_path / "state"}
    fit(Small(), lambda epoch: iter(torch.ones(4, 2, 3)), **options)
    (tmp_path / "state" / "shares").mkdir()
    with pytest.raises(RetroclipError, match=r"saved in shares \(shard\).* or delete it$"):
        fit(Small(), lambda epoch: iter(torch.ones(4, 2, 3)), **options)


def test_one_process_has_nothing_to_share():
    def run(shard):
        objective = Small()
        fit(objective, lambda epoch: iter(torch.ones(4, 2, 3)), steps=4, lr=0.1, shard=shard)
        return objective.linear.weight

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("name", ["resblocks", "blocks"])
def test_blocks_of_both_libraries_are_shared_out_one_by_one(name):
    from retroclip.training.sharding import _blocks

    tower = nn.Module()
    tower.trunk = nn.Module()
    blocks = [nn.Linear(2, 2), nn.Linear(2, 2)]
    # open_clip's and timm's
    setattr(tower.trunk, name, nn.ModuleList(blocks) if name == "resblocks" else nn.Sequential(*blocks))
    tower.head = nn.Sequential(nn.Linear(2, 2))
    assert set(_blocks(tower)) == set(blocks)
