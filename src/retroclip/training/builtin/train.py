"""The recipe that makes the builtin model: captions (Formal CLIP), labels (iCAR), and a teacher's knowledge of classes.

Three terms, on feature maps computed once: CLIP's loss on captioned photos; iCAR's classification term with class texts
on labelled images; the cross-entropy to the teacher's ImageNet probabilities over random cuts of WordNet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from retroclip.tasks.wordnet import read_nouns
from retroclip.training.builtin.batches import Batches, padded_tokenizer
from retroclip.training.builtin.features import FeatureCache
from retroclip.training.builtin.model import (
    Stem,
    TeacherHead,
    load_teacher,
    prune_vocabulary,
    text_state,
    warm_start_file,
    write_directory,
)
from retroclip.training.builtin.objective import Objective
from retroclip.training.builtin.recipe import BuiltinRecipe
from retroclip.training.loop import History, fit

Progress = Callable[[str], None]


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
    batches = Batches(recipe, caches, padded_tokenizer(AutoTokenizer.from_pretrained(draft)))
    history = run_stage(recipe, objective, batches, on_progress)
    if recipe.polish_steps:
        history.rows += polish(recipe, objective, batches, on_progress).rows
    publish(model, draft, recipe.out)
    (recipe.work / "history.json").write_text(json.dumps(history.rows))
    return history


def run_stage(
    recipe: BuiltinRecipe,
    objective: Objective,
    batches: Callable[[int], Iterator[dict[str, Any]]],
    on_progress: Progress,
    *,
    polish: bool = False,
) -> History:
    """One run of the loop with the recipe's numbers, with its own checkpoint."""
    return fit(
        objective,
        batches,
        steps=recipe.polish_steps if polish else recipe.steps,
        lr=recipe.polish_lr if polish else recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        grad_clip=recipe.grad_clip,
        lr_scale=lambda name: recipe.text_lr_scale if name.startswith("text.transformer") else 1.0,
        after_step=objective.clamp,
        checkpoint=recipe.work / ("polish" if polish else "state"),
        save_every=2 * recipe.bank_every,
        on_log=lambda row: on_progress(" ".join(f"{name} {value:.4g}" for name, value in row.items())),
        seed=recipe.seed,
    )


def polish(recipe: BuiltinRecipe, objective: Objective, batches: Batches, on_progress: Progress) -> History:
    """A short second stage in which every image is also told from all 1000 classes at once.

    Cuts teach names of every granularity but show few fine classes at a time (docs/decisions.md). Checkpoints fall on
    refreshes of the bank, so that a resumed run computes the same one.
    """

    def epochs(epoch: int) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng([recipe.seed, 1, epoch])
        for number in range(batches.length):
            if number % recipe.bank_every == 0:
                with torch.no_grad():
                    tokens = batches.leaf_texts(rng).split(250)
                    objective.bank = torch.cat([F.normalize(objective.text(part), dim=-1) for part in tokens])
            yield batches.draw(rng)

    return run_stage(recipe, objective, epochs, on_progress, polish=True)


def publish(model: nn.Module, draft: Path, out: Path) -> None:
    """The model's directory: `draft`'s files and the weights in 16 bits, which appear last and whole."""
    out.mkdir(parents=True, exist_ok=True)
    for file in draft.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    fresh = out / "open_clip_model.safetensors.new"
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, fresh)
    fresh.rename(out / "open_clip_model.safetensors")


def open_directory(folder: Path, *, drop_path: float) -> Any:
    """The untrained open_clip model that `folder` describes; `drop_path` holds for training only."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["timm_drop_path"] = drop_path
    config["text_cfg"]["hf_model_name"] = str(folder)
    config.pop("custom_text")
    return open_clip.CustomTextCLIP(**config)


@torch.no_grad()
def start_as_linear(model: Any) -> None:
    """Zero the last matrix of every residual branch: the image tower starts as a linear map of the pooled features."""
    for block in model.visual.trunk.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
