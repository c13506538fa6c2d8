"""Two gloo processes: embeddings gathered with gradients give one process's loss and gradients, uneven shares too."""

import torch
import torch.nn.functional as F

from retroclip.training.distributed import gathered, own_rows, shared_out, world
from retroclip.training.losses import class_aware_loss

SCRIPT = """
import sys, torch, torch.distributed as dist
from test_two import loss_of
from retroclip.training.distributed import shared_out
dist.init_process_group("gloo")
torch.manual_seed(0)
net, x = torch.nn.Linear(4, 3), torch.randn(7, 4)
ddp = torch.nn.parallel.DistributedDataParallel(net)
loss = loss_of(shared_out(ddp, x))
loss.backward()
gradient = net.weight.grad.clone()
shared_out(ddp, x[:1]).square().sum().backward()  # nothing is left for one of the two
torch.save((loss.detach(), gradient, net.weight.grad), f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""
MODULE = """
import torch, torch.nn.functional as F
from retroclip.training.losses import class_aware_loss

def loss_of(rows):
    rows = F.normalize(rows, dim=-1)
    return class_aware_loss(rows, rows.flip(0), torch.tensor([0, 1, 0, 2, 1, -1, 2]), 5.0)
"""


def test_one_process_has_everything():
    rows = torch.randn(5, 2)
    assert world() == (0, 1) and own_rows(5) == slice(0, 5) and gathered(rows, 5) is rows
    assert torch.equal(shared_out(torch.exp, rows), rows.exp())


def test_gradients_of_two_processes_are_those_of_one(tmp_path, in_two_processes):
    (tmp_path / "test_two.py").write_text(MODULE)
    in_two_processes(SCRIPT, tmp_path)
    torch.manual_seed(0)
    net, x = torch.nn.Linear(4, 3), torch.randn(7, 4)
    rows = F.normalize(net(x), dim=-1)
    expected = class_aware_loss(rows, rows.flip(0), torch.tensor([0, 1, 0, 2, 1, -1, 2]), 5.0)
    expected.backward()
    gradient = net.weight.grad.clone()
    net(x[:1]).square().sum().backward()
    for rank in range(2):
        loss, own, both = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(own, gradient)
        torch.testing.assert_close(both, net.weight.grad)
