"""The recipe that makes the builtin model: captions (Formal CLIP), labels (iCAR), and a teacher's knowledge of classes.

Four terms, on feature maps computed once: CLIP's loss on captioned photos; iCAR's classification term with class texts
on labelled images; the cross-entropy to the teacher's ImageNet probabilities; and the distances between images, which
shall stay as they are for the convolutional net.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from retroclip.encoders.saving import replace_directory
from retroclip.tasks.wordnet import noun_file, read_nouns
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
from retroclip.training.distributed import is_main, wait
from retroclip.training.loop import History, fit
from retroclip.training.note import note_recipe

Progress = Callable[[str], None]
STATE = "state"
WEIGHTS = "open_clip_model.safetensors"


def train_builtin(recipe: BuiltinRecipe, on_progress: Progress = print) -> History:
    """Features, then the model, then the directory `recipe.out`. Killed, it goes on where it was.

    Raises RetroclipError when `recipe.work` holds the state of a run with other settings, SourceError where WordNet
    isn't.
    """
    from transformers import AutoTokenizer

    noun_file(recipe.wordnet)
    note_recipe(recipe, recipe.work, recipe.work / STATE, besides={"work", "out"})
    net, classifier = load_teacher(warm_start_file(recipe.image_weights))
    caches = [
        FeatureCache(
            recipe.work / "features", s.name, f"{recipe.data / s.file}", s.views, s.scale, s.limit, coarse=s.coarse
        )
        for s in recipe.sources
    ]
    fast = torch.bfloat16
    cast = net.to(fast, memory_format=torch.channels_last), classifier.to(fast)
    for cache in caches:
        if is_main():
            cache.build(Stem(cast[0]), TeacherHead(*cast), on_progress)
        wait()
        cache.open()

    draft = recipe.work / "model"
    weights = warm_start_file(recipe.text_weights)
    texts = [caption for cache in caches for row in cache.rows for caption in row["captions"]]
    synsets = read_nouns(recipe.wordnet)
    texts += [lemma for synset in synsets.values() for lemma in synset.lemmas]
    source_tokenizer = json.loads((weights.parent / "tokenizer.json").read_text())
    tokenizer, kept = prune_vocabulary(source_tokenizer, texts, recipe.vocabulary)
    if is_main():
        write_directory(draft, weights.parent, tokenizer, len(kept))
    wait()
    torch.manual_seed(recipe.seed)
    model = open_directory(draft, drop_path=recipe.drop_path)
    net, classifier = load_teacher(warm_start_file(recipe.image_weights))
    embed = model.visual.trunk.patch_embed
    embed.backbone.net.load_state_dict(net.state_dict())
    embed.classifier.load_state_dict(classifier.state_dict())
    model.load_state_dict(text_state(weights, kept), strict=False)
    objective = Objective(model, recipe)
    batches = Batches(recipe, caches, padded_tokenizer(AutoTokenizer.from_pretrained(draft)))
    rng = np.random.default_rng(recipe.seed)
    drawn = torch.stack([F.normalize(class_texts(objective, batches, rng), dim=-1) for _ in range(4)])
    start_from_classes(model, drawn.mean(0))
    history = fit(
        objective,
        with_bank(objective, batches, recipe),
        steps=recipe.steps,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        grad_clip=recipe.grad_clip,
        lr_scale=lambda name: recipe.text_lr_scale if name.startswith("text.transformer") else 1.0,
        after_step=objective.clamp,
        checkpoint=recipe.work / STATE,
        save_every=2 * recipe.bank_every,
        on_log=lambda row: on_progress(" ".join(f"{name} {value:.4g}" for name, value in row.items())),
        seed=recipe.seed,
    )
    if is_main():
        publish(model, draft, recipe.out)
        (recipe.work / "history.json").write_text(json.dumps(history.rows))
    wait()
    return history


def with_bank(
    objective: Objective, batches: Batches, recipe: BuiltinRecipe
) -> Callable[[int], Iterator[dict[str, Any]]]:
    """Epochs of `batches` in which the objective's bank of class texts is drawn and encoded anew every few batches.

    It is counted over epochs, as checkpoints are, which fall on refreshes: a resumed run computes the same bank.
    """

    def epochs(epoch: int) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng([recipe.seed, epoch])
        for number in range(batches.length):
            if (epoch * batches.length + number) % recipe.bank_every == 0:
                objective.bank = class_texts(objective, batches, rng)
            yield batches.draw(rng)

    return epochs


@torch.no_grad()
def class_texts(objective: Objective, batches: Batches, rng: np.random.Generator) -> Tensor:
    """The text tower's pooled output (1000, d), before its projection, for one drawn text of each class."""
    with torch.autocast("cpu", torch.bfloat16, enabled=objective.bf16):
        return torch.cat([objective.pooled_texts(part).float() for part in batches.leaf_texts(rng).split(250)])


def publish(model: nn.Module, draft: Path, out: Path) -> None:
    """The model's directory: `draft`'s files and the weights in 16 bits, word embeddings in 8; it appears whole.

    Other files of an older `out`, such as its README, are kept. A layer norm follows the word embeddings; e4m3 moves
    them by 2.7 % of their norm and lets all words stay whole.
    """
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    words = "text.transformer.embeddings.word_embeddings.weight"
    state[words] = state[words].to(torch.float8_e4m3fn)
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        if target.exists():
            shutil.copytree(target, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
        shutil.copytree(draft, scratch, dirs_exist_ok=True)
        save_file(state, scratch / WEIGHTS)
        scratch.chmod(0o755)
        replace_directory(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def open_directory(folder: Path, *, drop_path: float) -> Any:
    """The untrained open_clip model that `folder` describes; `drop_path` holds for training only."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["timm_drop_path"] = drop_path
    config["text_cfg"]["hf_model_name"] = str(folder)
    config.pop("custom_text")
    return open_clip.CustomTextCLIP(**config)


@torch.no_grad()
def start_from_classes(model: Any, texts: Tensor) -> None:
    """Let an image's embedding start as the mean of class texts (1000, d), weighted by the classifier (ConSE).

    The best factors of `texts` that fit the blocks' width become the evidence's table and the head. The projection of
    the maps and the last matrix of every residual branch start at zero: what they learn is added. Source: ConSE is
    Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings".
    """
    trunk, width = model.visual.trunk, model.visual.trunk.embed_dim
    u, s, v = torch.linalg.svd(texts, full_matrices=False)
    table = u[:, :width] * s[:width]
    trunk.patch_embed.evidence.weight.copy_(table.T)
    model.visual.head.proj.weight.copy_(v[:width].T)
    for layer in (trunk.patch_embed.proj, *(last for b in trunk.blocks for last in (b.attn.proj, b.mlp.fc2))):
        layer.weight.zero_()
        layer.bias.zero_()
