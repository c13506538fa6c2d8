"""The recipe that makes the builtin model: captions (Formal CLIP), labels (iCAR), and a teacher's knowledge of classes.

Three terms, on feature maps computed once: CLIP's loss on captioned photos; iCAR's classification term with class texts
on labelled images; the cross-entropy to the teacher's ImageNet probabilities over random cuts of WordNet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from timm.layers import PatchDropout
from torch import Tensor, nn

from retroclip.tasks.wordnet import read_nouns
from retroclip.training.builtin_model import (
    Stem,
    TeacherHead,
    load_teacher,
    prune_vocabulary,
    text_state,
    warm_start_file,
    write_directory,
)
from retroclip.training.builtin_texts import SynsetTexts, prompt
from retroclip.training.features import FeatureCache
from retroclip.training.hierarchy import Hierarchy
from retroclip.training.loop import History, fit
from retroclip.training.losses import classification_loss, clip_loss

WNID = re.compile(r"n\d{8}")
TRAINED_LENGTH = 20
Progress = Callable[[str], None]


class Source(BaseModel):
    """One data set: `share` images of it in every batch, trained by its captions, its labels, or the teacher alone.

    Its last `holdout` rows stay out of training, to choose by; `limit` reads only its first rows.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    file: str
    share: int
    text: Literal["captions", "labels", "none"] = "none"
    distil: bool = True
    views: int = 1
    scale: tuple[float, float] = (0.5, 1.0)
    limit: int | None = None
    holdout: int = 0


class BuiltinRecipe(BaseModel):
    """What makes the model; `data`: the folder of the sources' files, `work`: where a killed run finds what it had."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["builtin"]
    data: Path
    work: Path
    out: Path
    image_weights: str
    text_weights: str
    wordnet: Path
    sources: list[Source]
    vocabulary: int = 15_000
    steps: int = 1200
    lr: float = 1e-3
    text_lr_scale: float = 0.05
    frozen_text_layers: int = 3
    weight_decay: float = 0.1
    warmup: int = 50
    grad_clip: float = 1.0
    drop_path: float = 0.1
    patch_drop: float = 0.25
    nodes: int = 128
    distil_weight: float = 1.0
    label_mix: float = 0.5
    seed: int = 0


class Objective(nn.Module):
    """The trained parts of the model and the three terms. `batch` is a dict as `Batches` makes it."""

    def __init__(self, model: nn.Module, frozen_text_layers: int, distil_weight: float, patch_drop: float):
        super().__init__()
        self.distil_weight = distil_weight
        self.drop = PatchDropout(patch_drop, num_prefix_tokens=0)
        trunk = model.visual.trunk
        self.frozen = (trunk.patch_embed.backbone.net, model)  # in a tuple: neither trained nor checkpointed
        self.project, self.position = trunk.patch_embed.proj, trunk.pos_embed
        self.blocks, self.norm, self.head = trunk.blocks, trunk.fc_norm, model.visual.head
        self.text = model.text
        self.logit_scale = model.logit_scale
        self.class_scale = nn.Parameter(torch.tensor(np.log(20.0), dtype=torch.float32))
        bert = model.text.transformer
        for module in (bert.embeddings, *bert.encoder.layer[:frozen_text_layers]):
            module.requires_grad_(False)

    def encode_maps(self, maps: Tensor) -> Tensor:
        """Maps (B, 352, 5, 5) of the stem → unit-norm image embeddings (B, d)."""
        net = self.frozen[0]
        with torch.no_grad():
            maps = net.bn2(net.conv_head(maps))
        tokens = self.drop(self.project(maps).flatten(2).transpose(1, 2) + self.position)
        return F.normalize(self.head(self.norm(self.blocks(tokens).mean(1))), dim=-1)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        images = self.encode_maps(batch["maps"])
        scale, class_scale = self.logit_scale.exp(), self.class_scale.exp()
        values: dict[str, Tensor] = {}
        captions = F.normalize(self.text(batch["captions"]), dim=-1)
        values["caption"] = clip_loss(images[batch["captioned"]], captions, scale)
        if "labels" in batch:
            names = F.normalize(self.text(batch["names"]), dim=-1)
            values["label"] = classification_loss(images[batch["labelled"]], names, batch["labels"], class_scale)
        nodes = F.normalize(self.text(batch["nodes"]), dim=-1)
        predicted = (class_scale * images[batch["distilled"]] @ nodes.T).log_softmax(-1)
        target = batch["node_probabilities"]
        values["distil"] = (torch.xlogy(target, target) - target * predicted).sum(-1).mean()
        loss = values["caption"] + self.distil_weight * values["distil"] + values.get("label", torch.zeros(()))
        return {"loss": loss, "logit_scale": scale, **values}

    @torch.no_grad()
    def clamp(self) -> None:
        self.logit_scale.clamp_(0, np.log(100))
        self.class_scale.clamp_(0, np.log(100))


class Batches:
    """Batches of one epoch, drawn from all sources; a function of `seed` and the epoch alone."""

    length = 100

    def __init__(self, recipe: BuiltinRecipe, caches: list[FeatureCache], tokenize: Callable[[list[str]], Tensor]):
        self.recipe, self.caches, self.tokenize = recipe, caches, tokenize
        leaves = ImageNetInfo().label_names()
        synsets = read_nouns(recipe.wordnet)
        self.hierarchy, self.texts = Hierarchy(leaves, synsets), SynsetTexts(leaves, synsets)
        number = {leaf: position for position, leaf in enumerate(leaves)}
        self.leaf = [np.array([_leaf(row["key"], number) for row in cache.rows]) for cache in caches]

    def __call__(self, epoch: int) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng([self.recipe.seed, epoch])
        for _ in range(self.length):
            yield self.draw(rng)

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        maps, targets, captions, labels = [], [], [], []
        index: dict[str, list[int]] = {"captioned": [], "labelled": [], "distilled": []}
        start = 0
        for source, cache, leaf in zip(self.recipe.sources, self.caches, self.leaf, strict=True):
            rows = rng.choice(len(cache) - source.holdout, source.share, replace=False)
            drawn, logits = cache.take(rows, rng.integers(cache.views, size=len(rows)))
            maps.append(drawn)
            positions = list(range(start, start + len(rows)))
            start += len(rows)
            if source.text == "captions":
                index["captioned"] += positions
                captions += [str(rng.choice(cache.rows[row]["captions"])) for row in rows]
            elif source.text == "labels":
                index["labelled"] += positions
                labels += [cache.rows[row]["label"] for row in rows]
            if source.distil:
                index["distilled"] += positions
                targets.append(self.soften(logits.softmax(-1), leaf[rows]))
        batch: dict[str, Any] = {"maps": torch.cat(maps), "captions": self.tokenize(captions)}
        if labels:
            names, which = np.unique(labels, return_inverse=True)
            batch |= {
                "names": self.tokenize([prompt(name, None, rng) for name in names]),
                "labels": torch.tensor(which),
            }
        return batch | self.node_targets(torch.cat(targets), rng) | {k: torch.tensor(v) for k, v in index.items()}

    def soften(self, probabilities: Tensor, leaf: np.ndarray) -> Tensor:
        """Where an image's ImageNet class is known, mix it into the teacher's opinion."""
        known = torch.from_numpy(leaf >= 0)
        truth = F.one_hot(torch.from_numpy(leaf).clamp_min(0), probabilities.shape[1]).float()
        mixed = torch.lerp(probabilities, truth, self.recipe.label_mix)
        return torch.where(known[:, None], mixed, probabilities)

    def node_targets(self, probabilities: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        cut = self.hierarchy.sampled_cut(rng, probabilities.sum(0).numpy(), self.recipe.nodes)
        membership = torch.from_numpy(cut.membership)
        kept = membership >= 0
        target = torch.zeros(len(probabilities), len(cut.nodes))
        target.index_add_(1, membership[kept], probabilities[:, kept])
        texts = self.tokenize([self.texts.draw(node, rng) for node in cut.nodes])
        return {"nodes": texts, "node_probabilities": target / target.sum(-1, keepdim=True).clamp_min(1e-6)}


def _leaf(key: str, number: dict[str, int]) -> int:
    found = WNID.search(key)
    return number.get(found[0], -1) if found else -1


def padded_tokenizer(tokenizer: Any) -> Callable[[list[str]], Tensor]:
    """Texts → token ids padded to the longest of them; beyond `TRAINED_LENGTH` tokens they are cut, for speed."""

    def tokenize(texts: list[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": TRAINED_LENGTH, "return_tensors": "pt"}
        return tokenizer(texts, **options)["input_ids"]

    return tokenize


def train_builtin(recipe: BuiltinRecipe, on_progress: Progress = print) -> History:
    """Features, then the model, then the directory `recipe.out`. Killed, it goes on where it was."""
    from transformers import AutoTokenizer

    net, classifier = load_teacher(warm_start_file(recipe.image_weights))
    caches = [
        FeatureCache(recipe.work / "features", s.name, f"{recipe.data / s.file}", s.views, s.scale, s.limit)
        for s in recipe.sources
    ]
    fast = torch.bfloat16
    cast = net.to(fast, memory_format=torch.channels_last), classifier.to(fast)
    for cache in caches:
        cache.build(Stem(cast[0]), TeacherHead(*cast), on_progress)
        cache.open()

    draft = recipe.work / "model"
    weights = warm_start_file(recipe.text_weights)
    texts = [caption for cache in caches for row in cache.rows for caption in row["captions"]]
    synsets = read_nouns(recipe.wordnet)
    texts += [text for synset in synsets.values() for text in (*synset.lemmas, synset.gloss)]
    source_tokenizer = json.loads((weights.parent / "tokenizer.json").read_text())
    tokenizer, kept = prune_vocabulary(source_tokenizer, texts, recipe.vocabulary)
    write_directory(draft, weights.parent, tokenizer, len(kept))
    torch.manual_seed(recipe.seed)
    model = open_directory(draft, drop_path=recipe.drop_path)
    net, _ = load_teacher(warm_start_file(recipe.image_weights))
    model.visual.trunk.patch_embed.backbone.net.load_state_dict(net.state_dict())
    model.load_state_dict(text_state(weights, kept), strict=False)
    start_as_linear(model)

    objective = Objective(model, recipe.frozen_text_layers, recipe.distil_weight, recipe.patch_drop)
    history = fit(
        objective,
        Batches(recipe, caches, padded_tokenizer(AutoTokenizer.from_pretrained(draft))),
        steps=recipe.steps,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        grad_clip=recipe.grad_clip,
        lr_scale=lambda name: recipe.text_lr_scale if name.startswith("text.transformer") else 1.0,
        after_step=objective.clamp,
        checkpoint=recipe.work / "state",
        save_every=50,
        on_log=lambda row: on_progress(" ".join(f"{name} {value:.4g}" for name, value in row.items())),
        seed=recipe.seed,
    )
    publish(model, draft, recipe.out)
    (recipe.work / "history.json").write_text(json.dumps(history.rows))
    return history


def publish(model: nn.Module, draft: Path, out: Path) -> None:
    """The model's directory: `draft`'s files and the weights in 16 bits, which appear last and whole."""
    out.mkdir(parents=True, exist_ok=True)
    for file in draft.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    fresh = out / "open_clip_model.safetensors.new"
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, fresh)
    fresh.rename(out / "open_clip_model.safetensors")


def open_directory(folder: Path, *, drop_path: float) -> nn.Module:
    """The untrained open_clip model that `folder` describes; `drop_path` holds for training only."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["timm_drop_path"] = drop_path
    config["text_cfg"]["hf_model_name"] = str(folder)
    config.pop("custom_text")
    return open_clip.CustomTextCLIP(**config)


@torch.no_grad()
def start_as_linear(model: nn.Module) -> None:
    """Zero the last matrix of every residual branch: the image tower starts as a linear map of the pooled features."""
    for block in model.visual.trunk.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
