"""Learning from labelled images of the task itself: RA-CLIP's probe over augmented views, and k-shot fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retroclip.classifiers import LinearClassifier, class_texts, sgd_probe
from retroclip.encoders.consulting import refuse_consulting
from retroclip.errors import RetroclipError
from retroclip.training.distributed import start
from retroclip.training.loop import fit
from retroclip.training.tuning import TUNINGS, Towers
from retroclip.training.views import cache_views

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task


def augmented_probe(
    encoder: Encoder, task: Task, images: Sequence[bytes], labels: Tensor, *, views: int = 4, **options: Any
) -> LinearClassifier:
    """RA-CLIP's SGD probe over `views` random crops and flips of each image, embedded beforehand, and the plain image.

    The paper draws a new crop at every step [D: a fixed number of them, so that a frozen tower runs no more than
    `views` + 1 times an image]. What a model consults it consults for each view anew. `options` are those of
    `sgd_probe`.
    """
    seed = int(options.get("seed", 0))
    embedded = cache_views(encoder, images, stage="embedding", views=views, seed=seed, colours=False)
    return sgd_probe(encoder, task, F.normalize(embedded.float(), dim=-1), labels, **options)


class _Labelled(nn.Module):
    """Cross-entropy of images against class weights, both trained, the weights from the class texts."""

    def __init__(self, towers: Towers, weights: Tensor) -> None:
        super().__init__()
        self.trained = nn.ParameterList(towers.trained())
        self.weights = nn.Parameter(weights.clone())
        self._towers = (towers,)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        (towers,) = self._towers
        logits = towers.scale() * towers.image(batch["images"]) @ F.normalize(self.weights, dim=-1).T
        return {"loss": F.cross_entropy(logits, batch["labels"].to(logits.device))}


def fine_tune(
    encoder: Encoder,
    task: Task,
    images: Sequence[bytes],
    labels: Tensor,
    *,
    tuning: str = "gated-image",
    epochs: int = 20,
    batch_size: int = 64,
    lr: float | None = None,
    weight_decay: float = 0.05,
    views: int = 2,
    init: str = "text",
    seed: int = 0,
    checkpoint: Path | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> LinearClassifier:
    """A copy of `encoder` tuned on labelled images, with class weights that start from the class texts (ELEVATER).

    Logits are s·cos(W_c, f), with s trained as in REACT; ELEVATER's are s·(W_c·f + b) with s left as it is [D]. With
    `init` "random" W starts at random directions instead, ELEVATER's other initialisation. `tuning` is one of
    `TUNINGS` whose texts are locked; `lr` its own by default; `views` augmented views of each image are drawn from
    beside the plain one. With `checkpoint` (a folder for one run alone) a killed run goes on. Raises RetroclipError for
    another tuning, ModelError for a model that consults a memory or a reference set.
    """
    if tuning not in TUNINGS or TUNINGS[tuning].text != "locked":
        allowed = ", ".join(name for name, each in TUNINGS.items() if each.text == "locked")
        raise RetroclipError(f"fine-tuning on labelled images takes one of {allowed}, not {tuning!r}")
    refuse_consulting(encoder, "fine-tune the model beneath it")
    if init not in ("text", "random"):
        raise RetroclipError(f"class weights start from 'text' or 'random', not from {init!r}")
    start()
    torch.manual_seed(seed)
    towers = Towers(encoder, TUNINGS[tuning])
    cached = cache_views(encoder, images, stage=towers.stage, start=towers.start, views=views, seed=seed)
    texts = class_texts(encoder, task)
    objective = _Labelled(towers, texts if init == "text" else F.normalize(torch.randn(texts.shape), dim=-1))
    steps = epochs * -(-len(labels) // batch_size)
    history = fit(
        objective,
        _batches(cached, labels, batch_size, seed),
        steps=steps,
        lr=TUNINGS[tuning].lr if lr is None else lr,
        weight_decay=weight_decay,
        betas=(0.9, 0.98),
        warmup=steps // 10,
        after_step=towers.clamp_scale,
        checkpoint=checkpoint,
        save_every=max(1, steps // 20),
        log_every=max(1, steps // 100),
        on_log=on_log,
        seed=seed,
    )
    trained = sum(parameter.numel() for parameter in objective.parameters())
    towers.model.requires_grad_(False)
    custom = encoder.with_model(towers.model, name=f"{encoder.name} fine-tuned ({tuning}) for {task.name}")
    weights = F.normalize(objective.weights.detach().cpu(), dim=-1)
    classifier = LinearClassifier("fine-tune", custom, task.classes, weights)
    classifier.history, classifier.trained_parameters = history.rows, trained
    return classifier


def _batches(
    cached: Tensor, labels: Tensor, batch_size: int, seed: int
) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    count = -(-len(labels) // batch_size)

    def epoch(number: int) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        for rows in torch.randperm(len(labels), generator=generator).tensor_split(count):
            view = torch.randint(len(cached), (len(rows),), generator=generator)
            yield {"images": cached[view, rows], "labels": labels[rows]}

    return epoch
