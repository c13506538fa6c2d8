"""Run a pre-training recipe: data, model, the one loop, accuracy on the way, and a model directory at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from retroclip.classifiers import zero_shot
from retroclip.encoders import Encoder
from retroclip.encoders.loading import build, preprocessing
from retroclip.encoders.precision import choose_precision
from retroclip.encoders.saving import check_target
from retroclip.encoders.texts import text_lengths
from retroclip.errors import RetroclipError
from retroclip.fusion.reference import ReferenceEncoder
from retroclip.pairs import load_labelled
from retroclip.tasks import Task
from retroclip.tasks.wordnet import noun_file
from retroclip.training.distributed import is_main, wait
from retroclip.training.loop import History, fit
from retroclip.training.note import note_recipe
from retroclip.training.pretraining.batches import Batches
from retroclip.training.pretraining.corpus import Corpus
from retroclip.training.pretraining.objective import PretrainObjective
from retroclip.training.pretraining.recipe import PretrainRecipe, RaClipRecipe, Watched
from retroclip.training.pretraining.reference import RaClipObjective, References
from retroclip.training.pretraining.texts import ClassTexts

Progress = Callable[[str], None]
STATE, HISTORY = "state", "history.json"


def pretrain(recipe: PretrainRecipe, on_progress: Progress = print) -> History:
    """Train what the recipe says and write it to `recipe.out`. Killed and run again, it goes on where it was.

    Raises RetroclipError when `recipe.work` holds the state of a run with other settings, ModelError for an
    architecture that doesn't exist, SourceError where WordNet isn't.
    """
    check_target(recipe.out)
    if recipe.wordnet is not None:
        noun_file(recipe.wordnet)
    note_recipe(recipe, recipe.work, recipe.work / STATE, besides={"out", "figures"})
    corpora = [
        Corpus(source, recipe.data, recipe.work / "images", recipe.cache_size).build(on_progress)
        for source in recipe.sources
    ]
    encoder = fresh_encoder(recipe)
    texts = class_texts(recipe, corpora)
    bf16 = choose_precision(recipe.precision, encoder.device) == "bf16"
    trained: Encoder | ReferenceEncoder = encoder
    kept = None
    if isinstance(recipe, RaClipRecipe):
        references = References(recipe, corpora, encoder.dim)
        kept = references.kept
        objective: PretrainObjective = RaClipObjective(encoder.model, recipe, len(texts.names), references, bf16=bf16)
        trained = ReferenceEncoder(
            encoder, references.retriever, references.augmentation, recipe.retriever, references.thumbnails
        )
    else:
        objective = PretrainObjective(encoder.model, recipe, len(texts.names), bf16=bf16)
    batches = make_batches(recipe, corpora, texts, encoder, kept)
    watched = [Zeroshot(one, recipe.data) for one in recipe.watch]

    def on_log(row: dict[str, float]) -> None:
        if row["step"] % recipe.watch_every == 0 or row["step"] == recipe.steps:
            row |= {one.name: one.accuracy(trained) for one in watched}
            encoder.model.train()
        on_progress(" ".join(f"{name} {value:.4g}" for name, value in row.items()))

    history = fit(
        objective,
        batches,
        steps=recipe.steps,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        betas=recipe.betas,
        warmup=recipe.warmup,
        grad_clip=recipe.grad_clip,
        after_step=objective.clamp,
        checkpoint=recipe.work / STATE,
        save_every=recipe.save_every,
        log_every=recipe.log_every,
        on_log=on_log,
        shard=recipe.shard,
        seed=recipe.seed,
    )
    if is_main():
        trained.save(recipe.out)
        (recipe.work / HISTORY).write_text(json.dumps(history.rows))
    wait()
    return history


def fresh_encoder(recipe: PretrainRecipe) -> Encoder:
    """The recipe's model with weights drawn from its seed. Raises ModelError or RetroclipError for an unknown one."""
    cfg: Any = get_model_config(recipe.model) if isinstance(recipe.model, str) else recipe.model
    if cfg is None:
        raise RetroclipError(f"no architecture is called {recipe.model!r}: `retroclip models` names them")
    if lacking := [part for part in ("embed_dim", "vision_cfg", "text_cfg") if part not in cfg]:
        raise RetroclipError(f"the recipe's model has no {lacking[0]}: name an architecture, or write out open_clip's")
    cfg = json.loads(json.dumps(cfg))
    name = recipe.model if isinstance(recipe.model, str) else recipe.out.name
    if recipe.text_tower is not None:
        if not (recipe.text_tower / "config.json").is_file():
            raise RetroclipError(f"{recipe.text_tower}: no config.json of a text tower here")
        cfg["text_cfg"] |= {"hf_model_name": str(recipe.text_tower), "hf_tokenizer_name": str(recipe.text_tower)}
    if recipe.drop_path is not None and "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_drop_path"] = recipe.drop_path
    torch.manual_seed(recipe.seed)
    model: Any = build(cfg, recipe.text_tower, draw=True)
    cfg["vision_cfg"].pop("timm_drop_path", None)
    return Encoder(
        name,
        model,
        tokenizer_of(cfg, recipe.text_tower),
        model_cfg=cfg,
        preprocess_cfg=preprocessing(model, {}),
        precision="fp32",
        device="cpu" if not torch.cuda.is_available() else None,
    )


def tokenizer_of(cfg: dict[str, Any], text_tower: Path | None) -> Any:
    """The tokenizer of a configuration: CLIP's own, or a Hugging Face one from `text_tower` or the hub."""
    text = cfg["text_cfg"]
    length = text.get("context_length", 77)
    if not text.get("hf_tokenizer_name"):
        return open_clip.SimpleTokenizer(context_length=length)
    name = str(text_tower or text["hf_tokenizer_name"])
    try:
        return HFTokenizer(name, context_length=length, **(text.get("tokenizer_kwargs") or {}))
    except OSError as error:
        raise RetroclipError(f"no tokenizer {name} ({str(error).splitlines()[0][:120]}): set `text_tower`") from None


def make_batches(
    recipe: PretrainRecipe,
    corpora: list[Corpus],
    texts: ClassTexts,
    encoder: Encoder,
    kept: list[np.ndarray] | None = None,
) -> Batches:
    """The recipe's batches, for the encoder's tokenizer, size and normalisation."""

    def tokenize(some: list[str]) -> Tensor:
        tokens = encoder.tokenizer(some) if some else torch.zeros(0, 1, dtype=torch.long)
        return tokens[:, : int(text_lengths(encoder.model, tokens).max())] if some else tokens

    mean, std = (torch.tensor(encoder.preprocess_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    size: Any = encoder.preprocess_cfg["size"]
    side = size if isinstance(size, int) else size[0]
    return Batches(recipe, corpora, texts, tokenize, (mean, std), side, kept)


def class_texts(recipe: PretrainRecipe, corpora: list[Corpus]) -> ClassTexts:
    """The texts of all classes that the labelled sources hold."""
    rows = [row for corpus in corpora if corpus.source.text == "labels" for row in corpus.rows]
    return ClassTexts(
        ((row["label"], row["key"]) for row in rows),
        wordnet=recipe.wordnet,
        synsets=recipe.synsets,
        descriptions=recipe.descriptions,
        gloss_share=recipe.gloss_share,
    )


class Zeroshot:
    """Top-1 of the model as it is, with one template, on a labelled set."""

    def __init__(self, watched: Watched, data: Path) -> None:
        task = Task.load(watched.task)
        self.name = task.name
        self.task = task.model_copy(update={"templates": [watched.template]})
        found = load_labelled(f"{data / watched.file}")
        self.images = found.images[:: watched.every]
        self.labels = torch.tensor([task.label_index[label] for label in found.labels[:: watched.every]])

    def accuracy(self, encoder: Any) -> float:
        """Share of images whose label comes first, in [0, 1]."""
        logits = zero_shot(encoder, self.task)(encoder.encode_images(self.images, batch_size=256))
        return float((logits.argmax(dim=1) == self.labels).float().mean())
