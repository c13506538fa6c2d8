"""From a model reference to an Encoder."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from retroclip.encoders.activations import activation, hinted_activation
from retroclip.encoders.encoder import Encoder
from retroclip.encoders.gates import add_gates, gated_layers
from retroclip.encoders.references import RETROCLIP_FILE, Resolved, called, resolve
from retroclip.encoders.weights import fit, read_weights
from retroclip.errors import ModelError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
# What else a directory may hold, by the "kind" in its retroclip.json; rooms further down the flow add theirs.
Loader = Callable[..., Any]
_LOADERS: dict[str, Loader] = {}
_LOADERS_IN = {"memory-encoder": "retroclip.fusion", "reference-encoder": "retroclip.fusion"}


def register_loader(kind: str, loader: Loader) -> None:
    """Let `load` open directories whose retroclip.json says `kind`, by loader(directory, precision=, device=)."""
    _LOADERS[kind] = loader


def load(reference: str | Path, *, precision: str = "auto", device: str | torch.device | None = None) -> Encoder:
    """Load a model by reference (the syntaxes of `references`) as an Encoder.

    `precision` is "auto" (bf16 where it is faster, else fp32), "fp32" or "bf16"; `device` is CUDA if there is one, else
    the CPU. Raises ModelError, one line, for a reference that names nothing, weights that don't fit or can't be read
    safely, and a known mismatch of activations.

    >>> load("builtin").dim
    384
    """
    record = _record(reference)
    kind = record.get("kind", "encoder")
    if kind != "encoder":
        if kind in _LOADERS_IN:
            importlib.import_module(_LOADERS_IN[kind])
        if kind not in _LOADERS:
            raise ModelError(f"{reference} holds a {kind!r}, which this version can't load: upgrade retroclip")
        directory = _directory(reference)
        try:
            made = _LOADERS[kind](directory, precision=precision, device=device)
        except (FileNotFoundError, KeyError, SafetensorError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise ModelError(f"{directory} is no whole model ({told}): make it again") from error
        made.name, made.loaded_from = called(directory), str(directory.resolve())
        return made
    resolved = resolve(reference)
    model = build(resolved.model_cfg, resolved.directory)
    load_weights(model, resolved)
    encoder = Encoder(
        resolved.name,
        model,
        open_tokenizer(resolved),
        model_cfg=resolved.model_cfg,
        preprocess_cfg=preprocessing(model, resolved.preprocess_cfg),
        precision=precision,
        device=device,
    )
    encoder.loaded_from = resolved.reference
    return encoder


def build(model_cfg: dict[str, Any], directory: Path | None = None, *, draw: bool = False) -> nn.Module:
    """An open_clip model from its configuration; nothing is downloaded for a model in a directory.

    Its weights are arbitrary, to be read from a file, or with `draw` initialised, to be trained. A Hugging Face text
    tower is configured by the directory's own config.json where there is one.
    """
    cfg = copy.deepcopy(model_cfg)
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    is_hf = bool(text.get("hf_model_name"))
    if is_hf:
        text["hf_model_pretrained"] = False
        if directory is not None and (directory / "config.json").is_file():
            text["hf_model_name"] = str(directory)
    custom = cfg.pop("custom_text", False) or is_hf
    cls = (CoCa if "multimodal_cfg" in cfg else CustomTextCLIP) if custom else CLIP
    try:
        with nullcontext() if draw else SkipRandom():
            model: nn.Module = cls(**cfg)
    except Exception as error:  # timm, transformers and open_clip raise whatever they like for a bad configuration
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"the model's configuration can't be built ({first}): check its {CONFIG_HINT}") from error
    return model.float()  # a Hugging Face config.json may name a 16-bit type, which would round the weights to come


class SkipRandom(TorchFunctionMode):
    """Leave new weights as they are: they are about to be read from a file, and drawing them takes seconds.

    What is drawn into a tensor itself is skipped for parameters alone: torch's `trunc_normal_` draws into tensors of
    its own until every value lies within the bounds, and would never end if these kept what was in memory.
    """

    DRAWN = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_})
    INITIALISERS = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})  # those a mode can see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip the in-place draws; everything else runs."""
        kwargs = kwargs or {}
        if func in self.INITIALISERS or func in self.DRAWN:
            tensor = args[0] if args else kwargs["tensor"]
            if func in self.INITIALISERS or isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


CONFIG_HINT = "open_clip_config.json, and config.json for a Hugging Face text tower"


def load_weights(model: nn.Module, resolved: Resolved) -> None:
    """Read a resolved model's weights into a freshly built one, adding the gates that the weights have."""
    state = read_weights(resolved.weights)
    if resolved.gates is not None:
        state |= read_weights(resolved.gates)
    for tower, last in gated_layers(model, state).items():
        add_gates(model, last=last, tower=tower)
    fit(model, state, str(resolved.weights))
    if not resolved.activation_known:
        quick = bool(resolved.model_cfg.get("quick_gelu", False))
        other = "without -quickgelu" if quick else "with -quickgelu"
        logger.log(
            logging.WARNING if hinted_activation(resolved.weights) is (not quick) else logging.INFO,
            "%s loaded with %s: if it was trained with the other activation, name the architecture %s",
            resolved.weights,
            activation(quick),
            other,
        )


def preprocessing(model: nn.Module, described: dict[str, Any]) -> dict[str, Any]:
    """open_clip's complete preprocessing configuration: defaults, the model's own, and the size of its tower."""
    merged = merge_preprocess_dict(asdict(PreprocessCfg()), described)
    size = getattr(model.visual, "image_size", None)
    return merged if size is None else merged | {"size": size}


def open_tokenizer(resolved: Resolved) -> Callable[[list[str]], Tensor]:
    """The model's tokenizer, from its own directory where it has one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return open_clip.get_tokenizer(resolved.tokenizer)
    except Exception as error:
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(f"the tokenizer of {resolved.name} can't be opened ({first}): are its files there?") from error


def _directory(reference: str | Path) -> Path:
    return Path(str(reference).removeprefix("local-dir:")).expanduser()


def _record(reference: str | Path) -> dict[str, Any]:
    """What retroclip.json says of a directory; {} for anything that isn't one of ours."""
    path = _directory(reference) / RETROCLIP_FILE
    if str(reference) == "builtin" or not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path} is not a JSON object: make the model again")
    if record.get("format", 1) > FORMAT_VERSION:
        raise ModelError(f"{path.parent} was written by a later retroclip (format {record['format']}): upgrade")
    return record
