"""Between two models in weight space: a remedy against what customization forgets (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from retroclip.encoders.consulting import refuse_consulting
from retroclip.encoders.encoder import Encoder
from retroclip.encoders.fingerprint import architecture
from retroclip.encoders.gates import is_gate_name
from retroclip.errors import ModelError


def average(encoder_a: Encoder, encoder_b: Encoder, weight: float) -> Encoder:
    """The encoder whose weights are (1 − weight)·a + weight·b, in b's precision.

    Both must have one architecture. Where only one of them is gated, the other counts as gated with tanh(α) = 0: the
    gated blocks are kept whole and their tanh(α) scaled, so weight 0 and 1 give the two models exactly, and in between
    each gated branch contributes exactly its share of what it would add to the tokens it sees. Where both have a gate,
    tanh(α) is averaged and the block's weights like any others. Raises ModelError for other architectures, a weight
    outside [0, 1], or a model that consults a memory or a reference set.
    """
    for one in (encoder_a, encoder_b):
        refuse_consulting(one, "average the model beneath it")
    if not 0 <= weight <= 1:
        raise ModelError(f"an averaging weight lies between 0 and 1, not {weight}")
    if architecture(encoder_a.model_cfg) != architecture(encoder_b.model_cfg):
        raise ModelError(f"{encoder_a.name} and {encoder_b.name} have different architectures: can't be averaged")
    state_a, state_b = encoder_a.model.state_dict(), encoder_b.model.state_dict()
    gated_a, gated_b = ({n for n in state if is_gate_name(n)} for state in (state_a, state_b))
    if gated_a and gated_b and gated_a != gated_b:
        raise ModelError(f"{encoder_a.name} and {encoder_b.name} have gates in different layers: can't be averaged")
    model = copy.deepcopy(encoder_a.model if gated_a else encoder_b.model)
    mixed = {name: _mix(name, state_a.get(name), state_b.get(name), weight) for name in model.state_dict()}
    model.load_state_dict(mixed)
    name = f"average({encoder_a.name}, {encoder_b.name}, {weight:g})"
    return encoder_b.with_model(model, name=name)


def _mix(name: str, a: Tensor | None, b: Tensor | None, weight: float) -> Tensor:
    shares = [(value, share) for value, share in ((a, 1 - weight), (b, weight)) if value is not None]
    if name.endswith((".alpha_attn", ".alpha_dense")):
        return torch.atanh(sum((share * torch.tanh(alpha.double().cpu()) for alpha, share in shares), torch.zeros(())))
    last = shares[-1][0]
    if len(shares) == 1 or not last.is_floating_point():
        return last
    (first, _), _ = shares
    return torch.lerp(first.double(), last.to(first.device).double(), weight).to(first.dtype)
