"""What of a training state lies where: whole on every process (DDP), or shared out over them (FSDP2).

Accelerate passes over its FSDP plugin on CPUs without a word, so torch's `fully_shard` is used as it is: it works with
gloo as with NCCL.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class Whole:
    """The objective and its optimiser state whole on every process; DDP averages gradients where there are several."""

    def __init__(self, objective: nn.Module, accelerator: Accelerator, make_optimizer: MakeOptimizer) -> None:
        self.accelerator, self.schedulable = accelerator, make_optimizer(objective)
        self.model: Any
        self.optimizer: Any
        self.model, self.optimizer = accelerator.prepare(objective, self.schedulable)

    def finish_gradients(self, clip: float | None) -> None:
        """Between the backward pass and the update: at most the norm `clip`."""
        if clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), clip)

    def write_back(self) -> None:
        """The objective is up to date."""

    def save(self, folder: Path) -> None:
        """Accelerate keeps it all."""

    def load(self, folder: Path) -> None:
        """Accelerate has it all."""


class Sharded:
    """A copy of an objective whose parameters lie in shares on all processes; the objective itself stays whole.

    Each block of a tower is gathered when it is its turn. Scalars (temperatures) can't be shared out: they are the
    objective's own. `write_back` brings the objective's other weights up to date, so that it can be evaluated and saved
    as ever; it costs a whole set of weights a process, but neither gradients nor optimiser state.
    """

    def __init__(self, objective: nn.Module, accelerator: Accelerator, make_optimizer: MakeOptimizer) -> None:
        self.whole, device = objective, accelerator.device
        scalars = [p for p in objective.parameters() if p.ndim == 0]
        self.scalars = [p for p in scalars if p.requires_grad]
        module = copy.deepcopy(objective, {id(p): p for p in scalars}).to(device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in _blocks(module):
            fully_shard(block, mesh=mesh, ignored_params=set(scalars))
        fully_shard(module, mesh=mesh, ignored_params=set(scalars))
        self.model: Any = module
        self.optimizer = self.schedulable = make_optimizer(module)

    def finish_gradients(self, clip: float | None) -> None:
        """Average the scalars' gradients, which no share takes care of; scale all to the common norm `clip` at most."""
        for scalar in self.scalars:
            if scalar.grad is not None:
                dist.all_reduce(scalar.grad)
                scalar.grad /= dist.get_world_size()
        if clip is not None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            total = torch.stack([_gathered(gradient.norm()).square() for gradient in gradients]).sum().sqrt()
            for gradient in gradients:
                gradient.mul_(float((clip / (total + 1e-6)).clamp(max=1.0)))

    def write_back(self) -> None:
        """The weights as they are now, in the objective of every process."""
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True))
        self.whole.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """Every process writes its share of weights and optimiser state."""
        weights, state = get_state_dict(self.model, self.optimizer)
        dcp.save({"weights": weights, "optimizer": state}, checkpoint_id=str(folder))

    def load(self, folder: Path) -> None:
        """What `save` wrote, also into the objective: there may be no step left that would bring it up to date."""
        weights, state = get_state_dict(self.model, self.optimizer)
        dcp.load({"weights": weights, "optimizer": state}, checkpoint_id=str(folder))
        set_state_dict(self.model, self.optimizer, model_state_dict=weights, optim_state_dict=state)
        self.write_back()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of the towers, innermost first."""
    lists = [m for name, m in module.named_modules() if isinstance(m, nn.ModuleList) or name.endswith(".blocks")]
    found: dict[nn.Module, None] = {}
    for own in reversed(lists):
        found |= {block: None for block in own.children() if any(p.ndim for p in block.parameters())}
    return list(found)


def _gathered(value: Any) -> Tensor:
    """A tensor that lies in shares, put together; any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
