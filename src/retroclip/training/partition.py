"""What a contrastive loss draws apart: the log-partitions of a batch's logits in both directions, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**20
"""Logits at a time: what stays in a processor's cache between the product, the exponential and the sums."""
SMALLEST = 1e-30
"""A column's share of the largest logit below which its exponentials, shifted by their rows' largest, have lost it."""


def log_partitions(u: Tensor, v: Tensor, scale: Tensor | float, products: torch.dtype | None = None) -> Tensor:
    """mean_i log Σ_j exp(s·u_iᵀv_j) + mean_j log Σ_i exp(s·u_iᵀv_j), scalar, for u (n, d) and v (m, d).

    Both directions share one matrix of exponentials, made and used in blocks; it is all that is kept for the gradient.
    `products`: the dtype of the matrix products and of what is kept (bfloat16, where it is fast); default: that of `u`.
    Where a column's logits lie too far below the largest one, directions are computed one by one instead.
    """
    products = products or u.dtype
    with torch.no_grad():
        shared = _exponentials(u.to(products), v.to(products), scale, torch.promote_types(u.dtype, torch.float32))
    if shared is None:
        logits = scale * u @ v.T
        return logits.logsumexp(dim=1).mean() + logits.logsumexp(dim=0).mean()
    value, *parts = shared
    return _Shared.apply(u, v, scale, value, *parts)


def _exponentials(u: Tensor, v: Tensor, scale: Tensor | float, full: torch.dtype) -> tuple[Tensor, ...] | None:
    """The value, exp(logits − their row's largest) (n, m), and two factors that make it a gradient, (n, 2) and (2, m).

    The gradient by the logit of row i and column j is E_ij (1 / (n R_i) + exp(peak_i − top) / (m C_j)), R and C being
    the sums of rows and columns. None if a column has lost its own.
    """
    n, m = len(u), len(v)
    kept = u.new_empty(n, m)
    rows, peaks = (u.new_empty(n, dtype=full) for _ in range(2))
    columns, top = u.new_zeros(m, dtype=full), u.new_full((), -torch.inf, dtype=full)
    for at in _blocks(n, m):
        logits = (u[at] @ v.T).to(full).mul_(scale)
        peak = logits.amax(dim=1)
        exponentials = logits.sub_(peak[:, None]).exp_()
        rows[at], peaks[at], kept[at] = exponentials.sum(dim=1), peak, exponentials
        higher = torch.maximum(top, peak.max())
        columns = columns * (top - higher).exp() + (peak - higher).exp() @ exponentials
        top = higher
    if not columns.min() > SMALLEST:
        return None
    value = (rows.log() + peaks).mean() + (columns.log() + top).mean()
    left = torch.stack([1 / (n * rows), (peaks - top).exp()], dim=1)
    return value, kept, left, torch.stack([torch.ones_like(columns), 1 / (m * columns)])


def _blocks(n: int, m: int) -> Iterator[slice]:
    """Rows of an (n, m) matrix, about `BLOCK` elements at a time."""
    rows = max(1, BLOCK // m)
    return (slice(start, start + rows) for start in range(0, n, rows))


class _Shared(torch.autograd.Function):
    """The value of `_exponentials` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        v: Tensor,
        scale: Tensor | float,
        value: Tensor,
        kept: Tensor,
        left: Tensor,
        right: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(u, v, torch.as_tensor(scale), kept, left, right)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scale, kept, left, right = ctx.saved_tensors
        by_logit = torch.empty_like(kept)
        for at in _blocks(*kept.shape):
            by_logit[at] = (left[at] @ right).mul_(kept[at])
        by_u, by_v, by_scale = ctx.needs_input_grad[:3]
        towards = (by_logit @ v.to(kept.dtype)).to(u.dtype) if by_u or by_scale else None
        from_rows = (by_logit.T @ u.to(kept.dtype)).to(v.dtype) if by_v else None
        return (
            towards * (scale * upstream) if by_u else None,
            from_rows * (scale * upstream) if by_v else None,
            ((u * towards).sum() * upstream).reshape(scale.shape) if by_scale else None,
            *4 * (None,),
        )
