"""Weights from files that may come from anywhere: tensors only, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors.torch import load_file
from torch import Tensor, nn

from retroclip.errors import ModelError

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """A checkpoint file's tensors by name, without the wrappers and prefixes that training loops add.

    Safetensors, or a pickle read with `weights_only=True`. Raises ModelError for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return strip(load_file(path))
        return strip(torch.load(path, map_location="cpu", weights_only=True))
    except ModelError:
        raise
    except Exception as error:  # a file that is no pickle makes the unpickler raise anything
        if "TorchScript" in str(error):
            raise ModelError(f"{path} holds a program (TorchScript), which is not run: save its state_dict") from error
        raise ModelError(f"{path} can't be read as weights ({_first_line(error)})") from error


def strip(checkpoint: Any) -> dict[str, Tensor]:
    """The state dict inside a training checkpoint: `{"state_dict": {"module.x": …}}` → `{"x": …}`."""
    while isinstance(checkpoint, dict) and (inner := _inner(checkpoint)) is not None:
        checkpoint = inner
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ModelError("the checkpoint holds no state dict")
    tensors = {str(name): value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError("the checkpoint holds no tensors")
    for prefix in PREFIXES * 2:  # a compiled model inside DDP has both, in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def fit(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a model, strictly, after the conversions that open_clip makes of foreign formats.

    Raises ModelError that names the first tensors which are missing, unexpected or of another shape.
    """
    state = _converted(model, dict(state), source)
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for problem, names in (("lacks", missing), ("also holds", unexpected), ("has other shapes for", sorted(reshaped))):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise ModelError(f"{source} doesn't fit the architecture: it {problem} {', '.join(names[:2])}{more}")
    model.load_state_dict(state, strict=True)


def _converted(model: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for extra in ("input_resolution", "context_length", "vocab_size"):
            state.pop(extra, None)  # OpenAI's checkpoints
        if "text.transformer.embeddings.position_ids" not in model.state_dict():
            state.pop("text.transformer.embeddings.position_ids", None)  # transformers < 4.31
        for name, value in model.state_dict().items():  # scalars are () in some checkpoints and (1,) in others
            if value.numel() == 1 and name in state:
                state[name] = state[name].reshape(value.shape)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    except (KeyError, RuntimeError, AssertionError, AttributeError) as error:
        raise ModelError(f"{source} doesn't fit the architecture ({_first_line(error)})") from error
    return state


def _inner(checkpoint: dict[Any, Any]) -> dict[Any, Any] | None:
    return next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), dict)), None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
