"""Model references: one syntax for everything that can be loaded.

ViT-B-32/laion2b_s34b_b79k        an open_clip architecture and one of its pretrained tags (downloaded)
hf-hub:org/name                   a repository of the Hugging Face hub
path/to/directory, local-dir:...  an open_clip directory, one of ours or anybody's
ViT-B-32@weights.safetensors      an architecture with a checkpoint file (.safetensors, .pt, .pth, .bin)
builtin                           the small model that ships with retroclip
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import logging
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import get_model_config
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

from retroclip.encoders.activations import check_directory, check_file, check_hub, check_tag
from retroclip.errors import ModelError

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
RETROCLIP_FILE = "retroclip.json"
GATES_FILE = "gates.safetensors"
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
OF_L14_LAION2B = ("openclip-vit-large-14-gated-image", "openclip-vit-large-14-gated-image-laion2b")
"""REACT's published files (without suffix) whose base isn't normalised as OpenAI's models are."""


@dataclass(frozen=True)
class Resolved:
    """Where everything of a model is: its name for messages and results, configurations and files.

    `reference` names it from any working directory of this machine, and `name` without the machine (`called`).
    """

    name: str
    reference: str
    model_cfg: dict[str, Any]
    weights: Path
    tokenizer: str  # what open_clip.get_tokenizer takes
    preprocess_cfg: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    gates: Path | None = None
    activation_known: bool = True


def resolve(reference: str | Path) -> Resolved:
    """Find (and, for tags and the hub, download) what a reference names; raises ModelError, one line, if it can't."""
    text = str(reference).strip()
    if not text:
        raise ModelError("an empty model reference: write builtin, a directory, or one of `retroclip models`")
    if text == "builtin":
        return _resolve_builtin()
    if text.startswith("hf-hub:"):
        return _resolve_hub(text)
    if text.startswith("local-dir:"):
        return resolve_directory(Path(text.removeprefix("local-dir:")))
    if Path(text).is_dir():
        return resolve_directory(Path(text))
    name, at, file = text.partition("@")
    if at:
        return _resolve_file(name, Path(file))
    return _resolve_tag(text)


def list_models(pattern: str = "*") -> list[str]:
    """The `architecture/tag` names that open_clip can download and a shell pattern matches; `builtin` comes first."""
    names = ["builtin"] if builtin_directory().joinpath(CONFIG_FILE).is_file() else []
    names += [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def builtin_directory() -> Path:
    """The package directory that holds the builtin model (a retroclip installed as files, as pip does)."""
    return Path(str(resources.files("retroclip"))) / "builtin"


def called(path: Path) -> str:
    """What results and memories call the model at a path: the path as given, or the last part of an absolute one.

    They go to other machines, where another's paths mean nothing. Fingerprints tell models of one name apart.
    """
    path = path.expanduser()
    return Path(os.path.abspath(path)).name if path.is_absolute() or path.name in ("", "..") else str(path)


def resolve_directory(given: Path, *, name: str | None = None) -> Resolved:
    """Find configuration, weights, gates and tokenizer in an open_clip directory."""
    directory = given.expanduser().resolve()
    config = directory / CONFIG_FILE
    if not config.is_file():
        raise ModelError(f"{directory} is not a model: it has no {CONFIG_FILE}")
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        model_cfg = described["model_cfg"]
        _ = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{config} is not an open_clip configuration ({error})") from error
    check_directory(directory / RETROCLIP_FILE, model_cfg)
    gates = directory / GATES_FILE
    return Resolved(
        name=name or called(given),
        reference=name or str(directory),
        model_cfg=model_cfg,
        preprocess_cfg=described.get("preprocess_cfg", {}),
        weights=_weights_in(directory),
        tokenizer=f"local-dir:{directory}",
        directory=directory,
        gates=gates if gates.is_file() else None,
    )


def _weights_in(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    found = [p for p in sorted(directory.iterdir()) if p.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    found = [p for p in found if p.name != GATES_FILE]
    if len(found) != 1:
        raise ModelError(f"{directory} has {len(found) or 'no'} weight files: name one {WEIGHT_FILES[0]}")
    return found[0]


def _resolve_builtin() -> Resolved:
    directory = builtin_directory()
    if not (directory / CONFIG_FILE).is_file():
        raise ModelError("the builtin model is not installed: reinstall retroclip, or name another model")
    return resolve_directory(directory, name="builtin")


def _resolve_hub(reference: str) -> Resolved:
    repository = reference.removeprefix("hf-hub:")
    try:
        described = json.loads(Path(download_pretrained_from_hf(repository, filename=CONFIG_FILE)).read_text("utf-8"))
        weights = Path(download_pretrained_from_hf(repository))
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise _unreachable(reference, error) from error
    if "model_cfg" not in described:
        raise ModelError(f"{reference} is not an open_clip model: its {CONFIG_FILE} has no model_cfg")
    check_hub(reference, described["model_cfg"])
    return Resolved(
        name=reference,
        reference=reference,
        model_cfg=described["model_cfg"],
        preprocess_cfg=described.get("preprocess_cfg", {}),
        weights=weights,
        tokenizer=reference,
    )


def _resolve_tag(text: str) -> Resolved:
    name, _, tag = text.partition("/")
    model_cfg = _named_config(name, text)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag:
        raise ModelError(f"{name} is an architecture without weights: {_offer(name, tags)}")
    described = get_pretrained_cfg(name, tag)
    if not described:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4) or tags
        raise ModelError(f"{name} has no weights called {tag!r}: {_offer(name, near)}")
    check_tag(name, tag, model_cfg)
    try:
        weights = Path(download_pretrained(described))
    except Exception as error:
        raise _unreachable(text, error) from error
    return Resolved(
        name=text,
        reference=text,
        model_cfg=model_cfg,
        preprocess_cfg=described,
        weights=weights,
        tokenizer=name,
    )


def _resolve_file(name: str, given: Path) -> Resolved:
    model_cfg = _named_config(name, name)
    # Not resolved: the hub's cache links names to blobs, without the suffix and the name that tell what a file holds.
    file = Path(os.path.abspath(given.expanduser()))
    if not file.is_file():
        raise ModelError(f"no checkpoint file {file}")
    known = check_file(file, name, model_cfg)
    return Resolved(
        name=f"{name}@{called(given)}",
        reference=f"{name}@{file}",
        model_cfg=model_cfg,
        preprocess_cfg=_published_preprocessing(file),
        weights=file,
        tokenizer=name,
        activation_known=known,
    )


def _published_preprocessing(file: Path) -> dict[str, Any]:
    """What open_clip records of the base of a published file, known by its name; {}: as OpenAI's models have it."""
    if file.stem not in OF_L14_LAION2B:
        return {}
    described = get_pretrained_cfg("ViT-L-14", "laion2b_s32b_b82k")
    logger.info("%s: pixels in [-1, 1], as REACT's authors normalise for the base of this file", file)
    return {name: described[name] for name in ("mean", "std")}


def _named_config(name: str, reference: str) -> dict[str, Any]:
    config = get_model_config(name) if name else None
    if config is None:
        known = [*open_clip.list_models(), "builtin"]
        lower = {known_name.lower(): known_name for known_name in known}
        near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(lower[n] for n in near)}?" if near else "`retroclip models` lists them"
        raise ModelError(f"no model called {reference!r}, nor a directory of that name: {hint}")
    return config


def _offer(name: str, tags: list[str]) -> str:
    if not tags:
        return f"give a checkpoint file, {name}@weights.safetensors"
    return f"name its weights, for example {', '.join(f'{name}/{tag}' for tag in tags[:3])}"


def _unreachable(reference: str, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return ModelError(f"can't download {reference} ({first}): check the network, or use builtin or a local directory")
