"""REACT's gated blocks: new self-attention before frozen transformer blocks, opened from zero.

Inserted into a model that exists, without forking it: the block becomes an attribute of its host, and a hook runs it on
the host's input. State-dict names are those of the published checkpoints
(`visual.transformer.resblocks.{i}.gated_attn_block.…`), which load unchanged.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from retroclip.encoders.blocks import block_shape, image_blocks, text_blocks
from retroclip.errors import ModelError

ATTRIBUTE = "gated_attn_block"
TOWERS = {"image": image_blocks, "text": text_blocks}
RATIO = 4  # the hidden width of the dense part


class GatedBlock(nn.Module):
    """x ← x + tanh(α_attn)·MHSA(LN₁ x);  x ← x + tanh(α_dense)·MLP(LN₂ x), both α scalars that start at 0.

    tokens (B, L, width) → (B, L, width). 12·width² + 13·width + 2 parameters, at PyTorch's defaults but for the gates.
    Source: REACT (Liu et al. 2023), section 3.2, and the authors' code.
    """

    def __init__(self, width: int, heads: int, activation: nn.Module, eps: float = 1e-5) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        hidden = RATIO * width
        layers = [("c_fc", nn.Linear(width, hidden)), ("gelu", activation), ("c_proj", nn.Linear(hidden, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.alpha_attn = nn.Parameter(torch.zeros(()))
        self.alpha_dense = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """`attn_mask`: as the host block gets it; (L, L), (B·heads, L, L), or Hugging Face's (B, 1, 1 or L, L)."""
        normed = self.ln_1(tokens)
        mask = _attention_mask(attn_mask, tokens, self.attn.num_heads)
        attended = self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        # The gates stay fp32 in a bf16 model; the product goes back to the tokens' precision.
        tokens = tokens + self.alpha_attn.tanh().to(tokens.dtype) * attended
        return tokens + self.alpha_dense.tanh().to(tokens.dtype) * self.mlp(self.ln_2(tokens))


def add_gates(model: nn.Module, last: int = 6, tower: str = "image") -> list[GatedBlock]:
    """Insert a gated block before each of the last `last` blocks of a tower ("image" or "text"), in place.

    Each has its host's width, heads, activation, device and weight format. With the gates at 0 the model computes the
    same numbers bit for bit. Nothing is frozen here. Raises ModelError if the tower has too few blocks, or has gates.
    """
    blocks = _tower_blocks(model, tower)
    if not 1 <= last <= len(blocks):
        raise ModelError(f"can't gate {last} layers: the {tower} tower has {len(blocks)} blocks")
    if any(hasattr(block, ATTRIBUTE) for block in blocks):
        raise ModelError(f"the {tower} tower has gates already")
    return [_insert(block) for block in list(blocks)[-last:]]


def gated_blocks(model: nn.Module) -> list[GatedBlock]:
    """Every gated block of a model, in the order of its modules; empty for a plain one."""
    return [module for module in model.modules() if isinstance(module, GatedBlock)]


def gate_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all gated blocks: what REACT trains, with the logit scale."""
    return [parameter for block in gated_blocks(model) for parameter in block.parameters()]


def is_gate_name(name: str) -> bool:
    """Whether a state-dict name belongs to a gated block."""
    return f".{ATTRIBUTE}." in name


def count_gates(model: nn.Module) -> dict[str, int]:
    """How many of the last layers are gated, by tower, {} for a plain model: {"image": 6}."""
    counts = {}
    for tower in TOWERS:
        try:
            blocks = _tower_blocks(model, tower)
        except ModelError:
            continue
        if gated := sum(hasattr(block, ATTRIBUTE) for block in blocks):
            counts[tower] = gated
    return counts


def gated_layers(model: nn.Module, state: dict[str, Tensor]) -> dict[str, int]:
    """Which gates a state dict has, by tower: {"image": 6}; raises ModelError unless they are a tower's last layers."""
    hosts = {name.split(f".{ATTRIBUTE}.")[0] for name in state if is_gate_name(name)}
    found: dict[str, int] = {}
    for tower in TOWERS if hosts else ():
        try:
            blocks = _tower_blocks(model, tower)
        except ModelError:
            continue
        names = {module: name for name, module in model.named_modules()}
        # Checkpoints of the plain CLIP class name text blocks `transformer.…`, custom text towers `text.transformer.…`.
        aliases = [{names[block], names[block].removeprefix("text.")} for block in blocks]
        gated = [bool(alias & hosts) for alias in aliases]
        hosts -= set().union(*aliases)
        if not any(gated):
            continue
        last = len(gated) - gated.index(True)
        if not all(gated[-last:]):
            raise ModelError(f"the gates of the {tower} tower are not those of its last layers: can't load them")
        found[tower] = last
    if hosts:
        raise ModelError(f"the weights have gates where the architecture has no block: {sorted(hosts)[0]}")
    return found


def _tower_blocks(model: nn.Module, tower: str) -> nn.ModuleList | nn.Sequential:
    if tower not in TOWERS:
        raise ModelError(f"unknown tower {tower!r}: use image or text")
    return TOWERS[tower](model)


def _insert(block: nn.Module) -> GatedBlock:
    shape = block_shape(block)
    like = next(parameter for parameter in block.parameters() if parameter.ndim > 1)
    with like.device:
        gate = GatedBlock(shape.width, shape.heads, copy.deepcopy(shape.activation), shape.eps)
    alphas = gate.alpha_attn, gate.alpha_dense
    gate.to(like.dtype)
    for alpha in alphas:
        alpha.data = alpha.data.float()
    gate.train(block.training)
    setattr(block, ATTRIBUTE, gate)
    block.register_forward_pre_hook(_run_gate, with_kwargs=True)
    return gate


def _run_gate(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The hook, a plain function so that hosts can be copied and pickled: the first argument goes through the gate."""
    mask = kwargs.get("attn_mask", kwargs.get("attention_mask"))
    if mask is None:
        mask = next((value for value in args[1:] if isinstance(value, Tensor)), None)
    return (getattr(host, ATTRIBUTE)(args[0], attn_mask=mask), *args[1:]), kwargs


def _attention_mask(mask: Tensor | None, tokens: Tensor, heads: int) -> Tensor | None:
    """Any host's mask as nn.MultiheadAttention takes it: additive, (L, L) or (B·heads, L, L)."""
    if mask is None:
        return None
    if mask.ndim == 4:  # Hugging Face: (B, 1, 1 or L, L), additive, or boolean where True may be attended to
        batch, length = tokens.shape[:2]
        mask = mask.expand(batch, heads, length, length).reshape(batch * heads, length, length)
        if mask.dtype == torch.bool:
            return ~mask
    return mask if mask.dtype == torch.bool else mask.to(tokens.dtype)
