"""Tiny models of every kind of architecture, written to disk as open_clip writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from retroclip.encoders import Encoder, load

WORDS = "a photo of the dog cat red bus small very on table bird green car big two people"
TEXTS = ["a dog", "a photo of a very small cat on the table", "red bus", "two people", "a big green car on the table"]

VIT = {"image_size": 32, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3}


def tiny_timm_vit(**kwargs: Any) -> VisionTransformer:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained"):
        kwargs.pop(name, None)
    cfg = {"input_size": (3, 32, 32), "num_classes": 0}
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4}
    return build_model_with_cfg(VisionTransformer, "retroclip_test_vit", False, pretrained_cfg=cfg, **sizes | kwargs)


@register_model
def retroclip_test_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return tiny_timm_vit(**kwargs)


@register_model
def retroclip_test_siglip(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return tiny_timm_vit(class_token=False, **{"global_pool": "map", **kwargs})


CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-quickgelu": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "timm": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "retroclip_test_vit", "timm_pool": "token", "image_size": 32},
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407},
    },
    "siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "retroclip_test_siglip",
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": 32,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 40,
            "hf_tokenizer_name": "a-hub/name",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 4,
            "layers": 3,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
    "hf": {
        "embed_dim": 32,
        "vision_cfg": VIT,
        "text_cfg": {
            "hf_model_name": "a-hub/name",
            "hf_tokenizer_name": "a-hub/name",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "context_length": 20,
        },
    },
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.25, 0.2], "interpolation": "bicubic", "resize_mode": "shortest"}


def write_tokenizer(directory: Path) -> None:
    """A word-level tokenizer in the files that transformers reads."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(directory)


def text_override(kind: str, directory: Path) -> dict[str, Any]:
    """What plain open_clip has to be told to find a Hugging Face tower's configuration in the directory."""
    if kind != "hf":
        return {}
    return {"text_cfg": CONFIGS[kind]["text_cfg"] | {"hf_model_name": str(directory), "hf_model_pretrained": False}}


def plain_open_clip(kind: str, directory: Path) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer of a directory, by open_clip alone."""
    override = text_override(kind, directory)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}", **override)
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{directory}")


def write_model(kind: str, directory: Path, seed: int = 0) -> Path:
    """A random model of a kind as an open_clip directory, whose embeddings spread enough to be worth comparing."""
    directory.mkdir(parents=True)
    config = {"model_cfg": CONFIGS[kind], "preprocess_cfg": PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    if kind in ("hf", "siglip"):
        write_tokenizer(directory)
    if kind == "hf":
        sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
        BertConfig(vocab_size=40, max_position_embeddings=20, pad_token_id=0, **sizes).save_pretrained(directory)
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{directory}", load_weights=False, **text_override(kind, directory))
    spread(model)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    return directory


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Move random weights to where inputs matter: fresh ones map everything to nearly one embedding."""
    for name, parameter in model.named_parameters():
        if name.endswith("embedding.weight") or "word_embeddings" in name:
            parameter.normal_(std=0.5)
        elif name.endswith((".bias", "in_proj_bias")):
            parameter.normal_(std=0.02)
        elif parameter.ndim > 1 and "positional" not in name and "pos_embed" not in name:
            parameter.mul_(1.5)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.bias.normal_(std=0.5)
        module.momentum = None  # statistics of all batches seen: without them, every image gives the same features
    if norms:
        model.visual.train()
        for _ in range(4):
            model.visual(2 * torch.nn.functional.interpolate(torch.randn(16, 3, 4, 4), size=model.visual.image_size))
        model.visual.eval()


def make_images(count: int = 6, seed: int = 0) -> list[bytes]:
    """JPEGs of coarse coloured noise, of several sizes and proportions."""
    generator = np.random.default_rng(seed)
    encoded = []
    for i in range(count):
        coarse = generator.integers(0, 256, (3 + i % 3, 4, 3), dtype=np.uint8)
        stream = io.BytesIO()
        size = (90 + 17 * i, 70 + 31 * (i % 4))
        Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(stream, "JPEG", quality=95)
        encoded.append(stream.getvalue())
    return encoded


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    return make_images()


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind → directory of a random model of that kind, written once for all tests."""
    written: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in written:
            written[kind] = write_model(kind, tmp_path_factory.mktemp("models") / kind)
        return written[kind]

    return find


@pytest.fixture(scope="session")
def fresh(model_directory: Callable[[str], Path]) -> Callable[[str], Encoder]:
    """kind → an fp32 encoder of that kind which a test may change; read from disk once."""
    loaded: dict[str, Encoder] = {}

    def copy(kind: str) -> Encoder:
        if kind not in loaded:
            loaded[kind] = load(model_directory(kind), precision="fp32")
        return loaded[kind].copy()

    return copy


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an open_clip architecture registered for these tests, the `vit` kind, and its -quickgelu variant."""
    directory = tmp_path_factory.mktemp("architectures")
    for suffix, kind in (("", "vit"), ("-quickgelu", "vit-quickgelu")):
        (directory / f"retroclip-test{suffix}.json").write_text(json.dumps(CONFIGS[kind]))
    open_clip.add_model_config(directory)
    return "retroclip-test"
