"""Typographic attack: the name of a wrong class is written on every image (methods.md, section 7)."""

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from retroclip.errors import RetroclipError, TaskError
from retroclip.evaluation.bootstrap import RESAMPLES, percentile_interval, resample_counts
from retroclip.evaluation.classification import head
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result
from retroclip.evaluation.samples import load_samples

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task


def write_on(
    image: Image.Image, text: str, *, height: float = 0.15, place: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """A copy with a text on a white label: its letters are `height` of the image high, smaller where it is too long.

    `place` is where its middle is, as shares of width and height; the label stays inside the image.
    """
    drawn = image.convert("RGB").copy()
    draw = ImageDraw.Draw(drawn)
    points = max(6.0, height * image.height)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=ImageFont.load_default(points))
    if right - left > 0.95 * image.width:
        points = max(4.0, points * 0.95 * image.width / (right - left))
        left, top, right, bottom = draw.textbbox((0, 0), text, font=ImageFont.load_default(points))
    width, tall, edge = right - left, bottom - top, max(1, round(points / 6))
    x = min(max(place[0] * image.width - width / 2, edge), max(edge, image.width - width - edge))
    y = min(max(place[1] * image.height - tall / 2, edge), max(edge, image.height - tall - edge))
    draw.rectangle((x - edge, y - edge, x + width + edge, y + tall + edge), fill="white")
    draw.text((x - left, y - top), text, fill="black", font=ImageFont.load_default(points))
    return drawn


@register_protocol("typographic-attack")
def evaluate_attack(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    height: float = 0.15,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Result:
    """Top-1 with a wrong class's name drawn on every image; beside it clean top-1 and the attack's success rate.

    Success: among the images that were right when clean, the share that is now taken for the class written on it. Which
    wrong class, and where, is drawn by `seed`. Baseline: the most frequent class always. Raises as `evaluate`.
    """
    from retroclip.pairs import decode_image

    if len(task.classes) < 2:
        raise TaskError(f"task {task.name!r} has one class: an attack needs a wrong one")
    if not 0.02 <= height <= 1:
        raise RetroclipError(f"height is the letters' share of the image, from 0.02 to 1, not {height:g}")
    start = time.perf_counter()
    samples, classifier = load_samples(task, dataset, where=where), head(model, task)
    if samples.several:
        raise TaskError(f"{samples.dataset} has several labels an image: an attack needs one")
    samples.drop_unreadable()
    rng = np.random.default_rng(seed)
    n, k = len(samples), len(task.classes)
    wrong = (samples.labels + rng.integers(1, k, size=n)) % k
    places = rng.uniform(0.1, 0.9, size=(n, 2))
    attacked = []
    for image, label, place in zip(samples.images, wrong, places, strict=True):
        text = task.display_name(task.classes[label])
        stream = io.BytesIO()
        write_on(decode_image(image), text, height=height, place=(place[0], place[1])).save(stream, "PNG")
        attacked.append(stream.getvalue())
    encoder = classifier.encoder
    outcomes = []
    for images in (samples.images, attacked):
        with torch.no_grad():
            logits = classifier(encoder.encode_images(images)).float().cpu().numpy()
        outcomes.append(Outcome.from_logits(logits, samples.labels, keep_scores=False))
    clean, after = outcomes
    fooled = after.predicted == wrong
    figures = {
        "attacked-top1": (after.correct, np.ones(n)),
        "clean-top1": (clean.correct, np.ones(n)),
        "success-rate": (fooled & clean.correct, clean.correct),
        "written-class": (fooled, np.ones(n)),
        "written-class-clean": (clean.predicted == wrong, np.ones(n)),
    }
    metrics = {name: float(hits.sum() / max(of.sum(), 1)) for name, (hits, of) in figures.items()}
    intervals = {}
    if resamples:
        draws = np.concatenate(list(resample_counts(n, resamples, 0)))
        for name, (hits, of) in figures.items():
            intervals[name] = percentile_interval((draws @ hits) / np.maximum(draws @ of, 1))
    seconds = time.perf_counter() - start
    majority = float(np.bincount(samples.labels).max() / n)
    return Result(
        task=task.name,
        dataset=samples.dataset,
        split=samples.split,
        n=n,
        protocol="typographic-attack",
        method=method or "zero-shot",
        model="",
        metric="attacked-top1",
        value=metrics["attacked-top1"],
        interval=intervals.pop("attacked-top1", None),
        metrics=metrics,
        intervals=intervals,
        baseline="the most frequent class (top1), the written class by chance",
        baselines={"attacked-top1": majority, "clean-top1": majority, "written-class": 1 / k},
        templates=list(task.templates),
        missing_classes=samples.missing_classes,
        rejected=list(samples.rejected),
        seed=seed,
        data_hash=samples.hash,
        options={"height": height},
    ).made_by(encoder, seconds=seconds)
