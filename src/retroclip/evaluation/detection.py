"""Zero-shot detection in RegionCLIP's protocol: proposals classified by the class texts, AP50 of novel, base and all.

Region features → cosine with the texts and with a background embedding of zeros → softmax → per-class non-maximum
suppression (methods.md, section 3).
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.encoders.dense import LastDense, pool_boxes
from retroclip.encoders.regions import encode_cuts
from retroclip.errors import ModelError, RetroclipError
from retroclip.evaluation.average_precision import Boxes
from retroclip.evaluation.boxes import BoxedImages, load_boxes
from retroclip.evaluation.classification import head
from retroclip.evaluation.detected import (
    RESAMPLES,
    beside_untrained,
    keep_best,
    most_detections,
    summarise_detections,
)
from retroclip.evaluation.proposal_network import load_network
from retroclip.evaluation.proposals import choose_proposals
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result
from retroclip.evaluation.training_set import check_training, set_name, training_state
from retroclip.progress import counted

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task
    from retroclip.training.detector import OpenVocabularyDetector

TRAIN_SIZE = 224
# Shares of the untrained model in the geometric mean of both (F-VLM, Kuo et al. 2023).
BASE_SHARE, NOVEL_SHARE, OBJECTNESS = 0.35, 0.65, 0.0


@register_protocol("detection")
def evaluate_detection(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    proposals: str = "grid",
    network: str | None = None,
    limit: int = 100,
    features: Literal["crop", "dense"] = "crop",
    size: int | None = None,
    context: float = 1.0,
    train: str | None = None,
    epochs: int = 12,
    seed: int = 0,
    work: str | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """Detect the task's classes. `value` is AP50 over all classes; ap50-novel and ap50-base where it names novel ones.

    `proposals`: `grid`, `network`, `truth`, or a .json of boxes; `limit` of them an image. `network` is a file of
    weights of a torchvision Faster R-CNN, or the name of one (`load_network`). `features`: each cut out and
    encoded, or RoIAlign on the dense map at `size` pixels. Scores are multiplied with objectness as a geometric mean.
    With `train`, another set with boxes, an open-vocabulary Faster R-CNN learns its base classes (`training.detector`)
    and is evaluated on its own proposals; `metrics` then have the untrained model on the same proposals (`zero-shot-…`)
    and on the grid (`grid-…`), and the gains; `work` is a folder where its training keeps its state, so that a killed
    one goes on. Baseline: the same proposals with random class scores.
    Raises as `load_boxes`, `read_proposals` and `load_network`; RetroclipError for options that exclude each other,
    ModelError for scores that aren't finite.
    """
    start = time.perf_counter()
    if train is not None and (proposals, network) != ("grid", None):
        raise RetroclipError("a trained detector makes proposals of its own: leave out proposals and network, or train")
    if network is not None and proposals != "network":
        raise RetroclipError(f"network is for proposals 'network', not for {proposals!r}: --set.proposals network")
    if limit < 1:
        raise RetroclipError(f"limit is the number of proposals of an image, at least 1, not {limit}")
    proposer = load_network(network) if proposals == "network" else None
    data = load_boxes(task, dataset, where=where, empty=True)
    classifier = head(model, task)
    logits = ProposalLogits(classifier, features=features, size=size, context=context)
    options: dict[str, Any] = {"limit": limit, "features": features, "size": size, "context": context}
    if proposer is not None:
        options |= {"network": proposer.name, "network_fingerprint": proposer.fingerprint}
    found, chance = [], []
    untrained: dict[str, list[Boxes]] = {"zero-shot": [], "grid": []}
    rng = np.random.default_rng(0)
    most = most_detections(data)
    windows = choose_proposals(proposals, data, limit=limit, network=proposer)
    fit_seconds, trained = 0.0, 0
    if train is not None:
        method, proposals = "open-vocabulary", "network"
        options |= {"train": set_name(train), "epochs": epochs, "seed": seed}
        fitting = time.perf_counter()
        detector = trained_detector(classifier, task, train, data, size=size, epochs=epochs, seed=seed, work=work)
        fit_seconds, trained = time.perf_counter() - fitting, sum(each.numel() for each in detector.parameters())
        logits.dense = detector.dense or logits.dense  # where both see the same pixels, the tower runs once
    with counted(len(data.images), "images") as done:
        for i, image in enumerate(data.images):
            boxes, objectness = windows(i)
            scores = with_background(logits(image, boxes)) * objectness[:, None] ** 0.5
            if train is not None:
                untrained["grid"].append(keep_best(boxes, scores, i, limit=most))
                boxes, learnt, objectness = (part[:limit] for part in detector.detect(image))
                own = with_background(logits(image, boxes))
                untrained["zero-shot"].append(keep_best(boxes, own * objectness[:, None] ** 0.5, i, limit=most))
                scores = mixed(
                    finite(learnt, "the trained detector"), own, objectness, np.isin(task.classes, task.novel)
                )
            found.append(keep_best(boxes, scores, i, limit=most))
            chance.append(keep_best(boxes, rng.random(scores.shape), i, limit=most))
            done(1)
    result = summarise_detections(data, task, found, chance, method=method or "zero-shot", resamples=resamples)
    if train is not None:
        result = beside_untrained(result, data, task, found, untrained, chance, resamples)
    encoder, seconds = classifier.encoder, time.perf_counter() - start
    return result.made_by(
        encoder,
        seconds=seconds,
        fit_seconds=fit_seconds,
        trained_parameters=trained,
        seed=seed if train else None,
        options=result.options | {"proposals": proposals} | options,
    )


def mixed(
    learnt: NDArray[np.float64], own: NDArray[np.float64], objectness: NDArray[np.float64], novel: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Scores (n, K): geometric means of the trained detector's probabilities and the untrained model's, and objectness.

    F-VLM's shares, which differ for base classes and `novel` (K,) ones; `OBJECTNESS` is the power of objectness (n,).
    """
    share = np.where(novel, NOVEL_SHARE, BASE_SHARE)
    return learnt ** (1 - share) * own**share * objectness[:, None] ** OBJECTNESS


def trained_detector(
    classifier: "Classifier",
    task: "Task",
    train: str,
    data: BoxedImages,
    *,
    size: int | None,
    epochs: int,
    seed: int,
    work: str | None,
) -> "OpenVocabularyDetector":
    """A Faster R-CNN of another set's base classes; SourceError where that shares an image with the evaluated one."""
    from retroclip.training.detector import train_detector

    learnt = load_boxes(task, train)
    check_training(train, learnt, data)
    rows = [np.flatnonzero((learnt.image_of == i) & ~learnt.crowd) for i in range(len(learnt))]
    boxes, labels = [learnt.boxes[own] for own in rows], [learnt.labels[own] for own in rows]
    options: dict[str, Any] = {"size": size or TRAIN_SIZE, "epochs": epochs, "seed": seed}
    encoder, state = classifier.encoder, None
    if work is not None:
        state = training_state(work, "detector", encoder, task, options | {"data": learnt.hash})
    return train_detector(encoder, task, learnt.images, boxes, labels, **options, state=state)


class ProposalLogits:
    """A classifier's logits (n, K) for boxes (n, 4) of an image, by cuts or by RoIAlign on the dense map.

    `dense` makes that map, once for all boxes of an image that are asked for in a row.
    """

    def __init__(self, classifier: "Classifier", *, features: str, size: int | None, context: float) -> None:
        self.classifier, self.features, self.size, self.context = classifier, features, size, context
        self.dense = LastDense(classifier.encoder)

    def __call__(self, image: bytes, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        encoder = self.classifier.encoder
        if self.features == "crop":
            embeddings = encode_cuts(encoder, [(image, boxes.tolist())], context=self.context)
        else:
            embeddings = pool_boxes(encoder, image, boxes.tolist(), size=self.size, dense=self.dense)
        with torch.no_grad():
            logits = self.classifier(embeddings).double().cpu().numpy()
        return finite(logits, "the model")


def finite(scores: NDArray[np.float64], whose: str) -> NDArray[np.float64]:
    """The scores themselves; ModelError where one isn't a number: no detection would come of it, and so an AP of 0."""
    if not np.isfinite(scores).all():
        raise ModelError(f"{whose} gave NaN or infinite scores for proposals: check its weights")
    return scores


def with_background(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (n, K) of logits (n, K) beside a background whose embedding, and so whose logit, is zero."""
    padded = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
    exponent = np.exp(padded - padded.max(axis=1, keepdims=True))
    return (exponent / exponent.sum(axis=1, keepdims=True))[:, :-1]
