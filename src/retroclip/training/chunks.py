"""Large batches in small memory: embeddings chunk by chunk, for losses that compare all of a batch (GradCache)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retroclip.errors import RetroclipError


def in_chunks(encode: Callable[[Tensor], Tensor], rows: Tensor, size: int | None) -> Tensor:
    """`encode(rows)`, (B, …) → (B, d), at most `size` rows at a time; None: at once.

    Only the embeddings are kept for the backward pass, which encodes each chunk again with the random numbers that it
    had: memory is that of one chunk, gradients are those of the whole batch, an encoding is done twice. The loss sees
    all rows at once. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
    """
    if size is None or len(rows) <= size or not torch.is_grad_enabled():
        return encode(rows)
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in rows.split(size)])


def has_batch_norms(module: nn.Module) -> bool:
    """Whether a batch norm is trained: its statistics are those of the rows it sees, and chunks would change them."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(any(p.requires_grad for p in norm.parameters()) for norm in norms)


def refuse_batch_norms(module: nn.Module, size: int | None) -> None:
    """RetroclipError where chunks would change the loss."""
    if size is not None and has_batch_norms(module):
        raise RetroclipError(
            "micro_batch can't be used with batch norms, whose statistics are those of the whole batch"
        )
