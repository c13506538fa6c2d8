"""Gates merged into plain transformer blocks: the same numbers from a model that any open_clip reads.

A gated block is a transformer block whose two branches are scaled by tanh(α). The scale goes into the last linear map
of each branch, and what is left is a block like those of its tower: L layers of which G are gated are L + G plain ones.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from open_clip.transformer import LayerScale, ResidualAttentionBlock, Transformer
from timm.models import model_entrypoint
from torch import Tensor, nn

from retroclip.encoders.consulting import refuse_consulting
from retroclip.encoders.gates import ATTRIBUTE, GatedBlock, count_gates
from retroclip.encoders.loading import build
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

TOWERS = {"image": "vision_cfg", "text": "text_cfg"}


def merge_gates(encoder: Encoder) -> Encoder:
    """A plain open_clip model that computes what the gated one does; the encoder itself if it has no gates.

    Raises ModelError where that isn't exact: towers of timm and Hugging Face, whose depth is part of their name, and
    blocks of another form than the gates' (layer scale, another ratio); for an image tower of our own, such as the
    builtin's, which open_clip can't build; and for a model that consults a memory or a reference set.
    """
    refuse_consulting(encoder, "export the model beneath it")
    trunk = encoder.model_cfg["vision_cfg"].get("timm_model_name")
    if trunk and model_entrypoint(trunk).__module__.startswith("retroclip."):
        raise ModelError(f"{encoder.name}: open_clip alone can't build its image tower: export it as ONNX instead")
    gates = count_gates(encoder.model)
    if not gates:
        return encoder
    cfg = copy.deepcopy(encoder.model_cfg)
    # One numbering of a tower's layers to the other, and the tensors that change on the way.
    state = {name: value for name, value in encoder.model.state_dict().items() if f".{ATTRIBUTE}." not in name}
    for tower, count in gates.items():
        stack, prefix = _stack(encoder.model, tower)
        cfg[TOWERS[tower]]["layers"] = len(stack.resblocks) + count
        state = {name: value for name, value in state.items() if not name.startswith(prefix)}
        state |= _merged(stack, prefix)
    model = build(cfg)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    merged = type(encoder)(
        f"{encoder.name} (gates merged)",
        model,
        encoder.tokenizer,
        model_cfg=cfg,
        preprocess_cfg=encoder.preprocess_cfg,
        precision=encoder.precision,
        device=encoder.device,
    )
    return merged


def _stack(model: Any, tower: str) -> tuple[Transformer, str]:
    """The transformer of a tower and the prefix of its blocks' names; ModelError where blocks can't be added to it."""
    names = {"image": "visual.transformer", "text": "text.transformer" if hasattr(model, "text") else "transformer"}
    try:
        stack = model.get_submodule(names[tower])
    except AttributeError:
        stack = None
    if not isinstance(stack, Transformer) or not all(_is_plain(block) for block in stack.resblocks):
        raise ModelError(f"the gates of this {tower} tower can't be merged exactly: export it as ONNX instead")
    return stack, f"{names[tower]}.resblocks."


def _is_plain(block: nn.Module) -> bool:
    if not isinstance(block, ResidualAttentionBlock) or isinstance(block.ls_1, LayerScale):
        return False
    return block.mlp.c_fc.out_features == 4 * block.mlp.c_fc.in_features


def _merged(stack: Transformer, prefix: str) -> dict[str, Tensor]:
    """The state of the longer stack: each gate becomes a block before its host."""
    state: dict[str, Tensor] = {}
    position = 0
    for block in stack.resblocks:
        gate = getattr(block, ATTRIBUTE, None)
        if gate is not None:
            state |= {f"{prefix}{position}.{name}": value for name, value in _as_block(gate).items()}
            position += 1
        own = {name: value for name, value in block.state_dict().items() if not name.startswith(ATTRIBUTE)}
        state |= {f"{prefix}{position}.{name}": value for name, value in own.items()}
        position += 1
    return state


def _as_block(gate: GatedBlock) -> dict[str, Tensor]:
    state = {name: value.float().clone() for name, value in gate.state_dict().items() if not name.startswith("alpha")}
    for branch, alpha in (("attn.out_proj", gate.alpha_attn), ("mlp.c_proj", gate.alpha_dense)):
        for part in ("weight", "bias"):
            state[f"{branch}.{part}"] *= torch.tanh(alpha.detach().float())
    return state
