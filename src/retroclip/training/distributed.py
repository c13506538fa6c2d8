"""One global batch over several processes: each encodes its share, all see every embedding, gradients included.

The loss is then that of one process over the same batch: every process computes it whole, `gathered` sums the gradients
of all processes back into the share they belong to, and DDP's mean over processes undoes that sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from retroclip.encoders.precision import has_fast_bf16, settle_bf16


def start() -> None:
    """Join the other processes of `torchrun` or `accelerate launch` (gloo on CPUs); alone or a second time, do nothing.

    What is measured, the faster number format, holds for all of them as the main process finds it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and world()[1] == 1:
        PartialState(cpu=not torch.cuda.is_available())
        fast = [is_main() and has_fast_bf16(torch.device("cpu"))]
        dist.broadcast_object_list(fast)
        settle_bf16(fast[0])


def world() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return world()[0] == 0


def wait() -> None:
    """Until every process is here."""
    if world()[1] > 1:
        dist.barrier()


def own_rows(count: int) -> slice:
    """The rows of a global batch of `count` that this process encodes; shares differ by one row at most."""
    rank, size = world()
    return slice(count * rank // size, count * (rank + 1) // size)


def gathered(rows: Tensor, count: int) -> Tensor:
    """Every process's share (m, d) of `count` rows → all rows (count, d), in order, with gradients.

    A gradient on any process reaches the process whose share it belongs to.
    """
    _, size = world()
    if size == 1:
        return rows
    counts = [count * (rank + 1) // size - count * rank // size for rank in range(size)]
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    shares = _AllGather.apply(padded)
    return torch.cat([share[:real] for share, real in zip(shares, counts, strict=True)])


def shared_out(encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`encode(rows)`, (B, …) → (B, d), of a batch that every process holds whole and encodes its own rows of."""
    own = rows[own_rows(len(rows))]
    # DDP waits for a gradient of every parameter, also from a process that no row is left for.
    encoded = encode(own) if len(own) else encode(rows[:1])[:0]
    return gathered(encoded, len(rows))


class _AllGather(torch.autograd.Function):
    """all_gather whose backward sums over processes: `torch.distributed.nn` needs reduce-scatter, which gloo lacks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        rows = rows.contiguous()
        shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, rows)
        return tuple(shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = torch.stack(gradients)
        dist.all_reduce(total)
        return total[dist.get_rank()]
