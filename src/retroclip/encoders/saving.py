"""Write an encoder as a directory that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from open_clip.hf_model import HFTextEncoder
from safetensors.torch import save_file
from torch import Tensor, nn

from retroclip.encoders.gates import count_gates, is_gate_name
from retroclip.encoders.precision import DTYPES, stays_fp32
from retroclip.encoders.references import CONFIG_FILE, GATES_FILE, RETROCLIP_FILE, WEIGHT_FILES
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

FORMAT_VERSION = 1


def save(encoder: Encoder, directory: str | Path, *, dtype: str = "fp32") -> Path:
    """Write weights, configuration, tokenizer and gates to `directory`; returns it.

    `open_clip_config.json` and `open_clip_model.safetensors` are what plain open_clip reads; gates are kept apart in
    `gates.safetensors`, so that they are what a plain reader misses. `dtype` "bf16" halves the files and keeps the
    fingerprint. A model already saved there is replaced; any other non-empty directory raises ModelError.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown storage format {dtype!r}: use fp32 or bf16")
    with appearing_whole(directory) as scratch:
        _write(encoder, scratch, dtype)
    return check_target(directory)


def check_target(directory: str | Path) -> Path:
    """The absolute path to save a model to: free, empty, or a saved model; ModelError for anything else."""
    target = Path(directory).expanduser().resolve()
    saved = any((target / name).is_file() for name in (CONFIG_FILE, RETROCLIP_FILE))
    if target.exists() and not saved and (target.is_file() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not a model: name another directory, or empty it")
    return target


@contextmanager
def appearing_whole(directory: str | Path) -> Iterator[Path]:
    """A scratch directory to write a model to, which takes its place as `directory` when the block has ended well.

    A model already saved there is replaced; ModelError as `check_target`.
    """
    target = check_target(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        replace_directory(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_directory(new: Path, target: Path) -> None:
    """Give a finished directory its final name; an older one of that name is removed once the new one stands."""
    if not target.exists():
        os.rename(new, target)
        return
    old = new.with_name(new.name + ".old")
    os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def storable(model: nn.Module, dtype: str) -> dict[str, Tensor]:
    """A model's state dict for safetensors: contiguous, unshared, floats in `dtype` but for `stays_fp32`."""
    exact = stays_fp32(model)
    tensors = {}
    for name, value in model.state_dict().items():
        stored = value.detach().cpu()
        if stored.is_floating_point():
            stored = stored.to(torch.float32 if name in exact else DTYPES[dtype])
        tensors[name] = stored.clone(memory_format=torch.contiguous_format)
    return tensors


def _write(encoder: Encoder, directory: Path, dtype: str) -> None:
    tensors = storable(encoder.model, dtype)
    gates = {name: value for name, value in tensors.items() if is_gate_name(name)}
    plain = {name: value for name, value in tensors.items() if name not in gates}
    model_cfg = _write_text_files(encoder, directory)
    save_file(plain, directory / WEIGHT_FILES[0], metadata={"format": "pt"})
    if gates:
        save_file(gates, directory / GATES_FILE, metadata={"format": "pt"})
    described = {"model_cfg": model_cfg, "preprocess_cfg": encoder.preprocess_cfg}
    _write_json(directory / CONFIG_FILE, described)
    record = {
        "format": FORMAT_VERSION,
        "kind": "encoder",
        "base": encoder.name,
        "quick_gelu": bool(model_cfg.get("quick_gelu", False)),
        "gates": count_gates(encoder.model),
        "weights": dtype,
        "fingerprint": encoder.fingerprint,
    }
    _write_json(directory / RETROCLIP_FILE, record)


def _write_text_files(encoder: Encoder, directory: Path) -> dict[str, Any]:
    """Tokenizer and tower configuration beside the weights where the text tower needs them; returns the configuration.

    open_clip reads a tokenizer from the model's directory whenever `hf_tokenizer_name` is set, whatever it says.
    """
    text_cfg = dict(encoder.model_cfg["text_cfg"])
    tower = getattr(encoder.model, "text", None)
    if isinstance(tower, HFTextEncoder):
        tower.config.save_pretrained(directory)
        text_cfg["hf_model_pretrained"] = False  # the tower's weights are among ours
    if hasattr(encoder.tokenizer, "save_pretrained"):
        encoder.tokenizer.save_pretrained(str(directory))
        text_cfg.setdefault("hf_tokenizer_name", ".")
    return encoder.model_cfg | {"text_cfg": text_cfg}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
