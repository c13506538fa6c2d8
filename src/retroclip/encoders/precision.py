"""Which number format a model runs in, and how far its embeddings may move for it.

The rule: `auto` takes bfloat16 weights where they are faster (`has_fast_bf16`), and fp32 elsewhere. bfloat16
is acceptable for an architecture when `fidelity` (the *minimum* cosine to fp32, over ≥ 500 real images and their texts)
is at least `FIDELITY_BOUND`; one below it says `needs_fp32`, or is to be loaded with `precision="fp32"`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

FIDELITY_BOUND = 0.999
PRECISIONS = ("auto", "fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device to run on: the one asked for, else CUDA where there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(precision: str, device: torch.device, model: nn.Module | None = None) -> str:
    """Resolve `auto` to "bf16" or "fp32" for a device; raises ModelError for an unknown precision.

    A model one of whose modules has `needs_fp32`, because in bf16 its fidelity is below the bound, stays in fp32.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if model is not None and any(getattr(module, "needs_fp32", False) for module in model.modules()):
        return "fp32"
    return "bf16" if has_fast_bf16(device) else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are clearly faster in bfloat16 than in fp32 there.

    On CUDA from Ampere on. On a CPU it is measured, once a process: an instruction set doesn't tell. Of two processors
    with AVX512-BF16 and without AMX, one (AMD EPYC) runs a linear layer 768 → 3072 four times faster in bf16, another
    (Intel Xeon, Sapphire Rapids) half as fast. Processes that train together take the main one's word (`settle_bf16`).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return _settled[0] if _settled else _bf16_wins_on_cpu()


_settled: list[bool] = []


def settle_bf16(wins: bool) -> None:
    """What `has_fast_bf16` says of CPUs from now on, whatever this process would measure."""
    _settled[:] = [wins]


@cache
def _bf16_wins_on_cpu(*, margin: float = 1.25) -> bool:
    """Time a ViT-B's widest layer over 256 tokens in both formats, in about 50 ms; the best of three runs counts."""
    seconds = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            rows, weight = torch.ones(256, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
            runs = []
            for _ in range(4):  # the first one is a warm-up
                start = time.perf_counter()
                functional.linear(rows, weight)
                runs.append(time.perf_counter() - start)
            seconds[dtype] = min(runs[1:])
    return seconds[torch.float32] > margin * seconds[torch.bfloat16]


def stays_fp32(model: nn.Module) -> set[str]:
    """Names of the state-dict entries that are never rounded to 16 bits, in memory or on disk.

    The scalars (logit scale and bias, gates: their rounding would show directly in the output) and the statistics and
    scales of batch norms (they multiply whole channels, and cost nothing).
    """
    names = {name for name, value in model.state_dict().items() if value.numel() == 1}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            names.update(f"{prefix}.{name}" for name in module.state_dict())
    return names


def cast(model: nn.Module, precision: str) -> nn.Module:
    """Convert a model's weights in place to "fp32" or "bf16", but for those of `stays_fp32`; returns it."""
    keep, dtype = stays_fp32(model), DTYPES[precision]
    for prefix, module in model.named_modules():
        tensors: dict[str, Any] = {**module._parameters, **module._buffers}
        for name, tensor in tensors.items():
            if tensor is None or not tensor.is_floating_point():
                continue
            full = f"{prefix}.{name}" if prefix else name
            tensor.data = tensor.data.to(torch.float32 if full in keep else dtype)
    return model


def fidelity(low: Encoder, exact: Encoder, images: Sequence[Any], texts: Sequence[str]) -> float:
    """The smallest cosine between two encoders' embeddings of the same images and texts.

    `low` is the encoder in question (bf16), `exact` the same model in fp32. At least `FIDELITY_BOUND` is wanted.
    """
    pairs = [
        (low.encode_images(images), exact.encode_images(images)),
        (low.encode_texts(texts), exact.encode_texts(texts)),
    ]
    return min((float((a * b).sum(dim=-1).min()) for a, b in pairs if len(a)), default=1.0)
