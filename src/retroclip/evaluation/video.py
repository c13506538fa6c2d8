"""Video classification: frames' embeddings averaged (methods.md, section 2), or a video transformer fine-tuned."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from retroclip.errors import SourceError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval, paired_gain
from retroclip.evaluation.classification import head
from retroclip.evaluation.clips import Clips, load_clips
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result, SampleHash
from retroclip.evaluation.samples import class_indices
from retroclip.evaluation.training_set import of_training, picture, set_name, training_state
from retroclip.pairs import mirrored, thumbnail

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

LOOKED = 4  # frames of a clip
COPY = 0.9  # re-encoded and reduced clips of UCF101 have 0.97 and more, other clips of the same scene 0.78 and less
Architecture = Literal["small", "tiny", "swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s"]


@register_protocol("video")
def evaluate_video(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    frames: int = 8,
    train: str | None = None,
    epochs: int = 20,
    seed: int = 0,
    architecture: Architecture = "small",
    weights: str | None = None,
    work: str | None = None,
    resamples: int = RESAMPLES,
) -> Result:
    """Top-1 over clips by the mean embedding of `frames` frames, or of all where a clip has fewer (`short_clips`).

    Baseline: the most frequent class.

    With `train`, other clips, a video transformer learns them with the class texts as its classifier
    (`training.video`), from random weights or from a file of torchvision's, `weights`, and is evaluated instead. Clips
    of the task's novel classes are not learnt. `metrics` then have top-1 of the classes that had no clip to learn from
    (`top1-novel`) and of the others (`top1-base`) with baselines of their own, the untrained frame averaging on the
    same clips (`zero-shot-…`), and the gains over it with paired intervals. `work`: `training_state`.

    Raises SourceError as `load_clips` and `Clips.readable`, and for clips to learn that show evaluated pictures;
    TaskError for labels the task lacks; as `VideoTower` for architecture and weights.
    """
    start = time.perf_counter()
    classifier, tower = head(model, task), None
    if train is not None:  # first, for a file of weights that doesn't fit is told at once
        from retroclip.training.video import VideoTower, train_video

        tower = VideoTower(classifier.encoder, frames=frames, architecture=architecture, weights=weights, seed=seed)
    clips = load_clips(dataset, where=where, frames=frames)
    class_indices(clips.labels, task, str(dataset))  # a label that the task lacks is told before anything is decoded
    seen = survey(clips, classifier.encoder)
    labels = class_indices(clips.labels, task, str(dataset))
    options: dict[str, Any] = {"frames": frames, "short_clips": seen.short}
    fit_seconds = 0.0
    if tower is None or train is None:
        own = outcomes(classifier, seen.embeddings, labels)
        result = summarise_clips(clips, task, own, method=method or "zero-shot", resamples=resamples)
    else:
        options |= {"train": set_name(train), "epochs": epochs, "seed": seed, "architecture": architecture}
        if weights is not None:
            options |= {"weights": Path(weights).name, "weights_fingerprint": tower.fingerprint}
        learnt, known, near, shown = training_clips(train, task, clips, seen)
        fitting = time.perf_counter()
        state = None
        if work is not None:
            settings = options | {"clips": shown, "labels": known, "initial": tower.fingerprint}
            state = training_state(work, "video", classifier.encoder, task, settings)
        train_video(tower, classifier.encoder, task, learnt, known, epochs=epochs, seed=seed, state=state)
        fit_seconds = time.perf_counter() - fitting
        own = outcomes(classifier, tower.embed(clips), labels, known)
        result = summarise_clips(clips, task, own, method="video-transformer", resamples=resamples)
        result = beside_untrained(result, own, outcomes(classifier, seen.embeddings, labels, known), resamples)
        options |= {"training_clips": len(learnt), "train_near_duplicates": near}
    encoder, seconds = classifier.encoder, time.perf_counter() - start
    return result.made_by(
        encoder,
        seconds=seconds,
        fit_seconds=fit_seconds,
        trained_parameters=0 if tower is None else sum(each.numel() for each in tower.parameters()),
        seed=None if tower is None else seed,
        data_hash=seen.hash,
        options=options,
    )


@dataclass(frozen=True, eq=False)
class Survey:
    """What one reading of clips showed: embeddings (n, d), a hash of clips and labels, their `pictures` and `looks`.

    `short` is how many have fewer frames than were asked for.
    """

    embeddings: torch.Tensor
    hash: str
    pictures: set[bytes]
    looks: NDArray[np.float32]
    short: int = 0


def survey(clips: Clips, encoder: "Encoder") -> Survey:
    """Read all clips once; those that can't be read are left out of them.

    An embedding, of unit norm, is the mean of those of the clip's frames. Raises SourceError as `Clips.readable`.
    """
    means: list[torch.Tensor] = []
    looks: list[NDArray[np.float32]] = []
    digest, shown, short = SampleHash(), set(), 0
    for part in clips.readable():
        for row, frames in part.items():
            source = clips.sources[row]
            encoded = source if isinstance(source, list) else [frame.tobytes() for frame in frames]
            digest.add(b"".join(encoded), clips.labels[row])
            shown |= telling(frames)
            looks.append(look(frames)[0])
            short += len(frames) < clips.frames
        embedded = encoder.encode_images([frame for frames in part.values() for frame in frames])
        means += [own.mean(dim=0) for own in embedded.split([len(frames) for frames in part.values()])]
    return Survey(F.normalize(torch.stack(means), dim=-1), digest.hexdigest(), shown, np.stack(looks), short)


def telling(frames: Sequence[Image.Image]) -> set[bytes]:
    """Each frame's `training_set.picture`, but for those of a single colour (fades), which unlike clips share."""
    return {picture(frame) for frame in frames if frame.getcolors(1) is None}


def look(frames: Sequence[Image.Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A clip as the thumbnails of `LOOKED` of its frames in a row, and mirrored: products are mean correlations."""
    chosen = np.linspace(0, len(frames) - 1, LOOKED).round().astype(int)
    thumbnails = [thumbnail(frames[i]) for i in chosen]
    ways = (np.concatenate(each) for each in (thumbnails, [mirrored(own) for own in thumbnails]))
    plain, turned = (own / np.float32(LOOKED**0.5) for own in ways)
    return plain, turned


def training_clips(train: str, task: "Task", evaluated: Clips, seen: Survey) -> tuple[Clips, list[int], int, str]:
    """Clips to learn, their classes' indices, how many nearly are an evaluated clip (`COPY`) and left out, a hash.

    Those of the task's novel classes are left out, too. What was rejected is named with what was of the evaluated ones.
    SourceError where clips share a picture with these, whatever file format it has there (pixels are compared, not
    bytes), or where none is left.
    """
    learnt = load_clips(train, frames=evaluated.frames)
    known = class_indices(learnt.labels, task, train)
    learnt.keep(np.flatnonzero(~np.isin(known, [task.classes.index(name) for name in task.novel])).tolist())
    shown, near = set(), []
    for part in learnt.readable():
        for frames in part.values():
            shown |= telling(frames)
            near.append(max(float((seen.looks @ each).max()) for each in look(frames)) > COPY)
    if shown & seen.pictures:
        raise SourceError(f"{train} holds clips that are evaluated: train on another split")
    evaluated.rejected += of_training(learnt.rejected)
    learnt.keep(np.flatnonzero(~np.array(near, dtype=bool)).tolist())
    if not len(learnt):
        reason = f"{sum(near)} nearly are evaluated ones, all others are of classes that task {task.name!r} calls novel"
        raise SourceError(f"{train} has no clip to learn: {reason}")
    digest = hashlib.sha256(b"".join(sorted(shown))).hexdigest()
    return learnt, class_indices(learnt.labels, task, train).tolist(), sum(near), digest


def outcomes(
    classifier: "Classifier", embeddings: torch.Tensor, labels: NDArray[np.int64], known: Sequence[int] | None = None
) -> dict[str, Outcome]:
    """Answers about all clips (`top1`) and, of those with embeddings (n, d), about classes that are `known` or aren't.

    A part without a clip is left out.
    """
    with torch.no_grad():
        logits = classifier(embeddings).float().cpu().numpy()
    base = np.isin(labels, [] if known is None else known)
    parts = {"top1": np.ones(len(labels), dtype=bool)}
    parts |= {} if known is None else {"top1-novel": ~base, "top1-base": base}
    return {
        name: Outcome.from_logits(logits[rows], labels[rows], keep_scores=False)
        for name, rows in parts.items()
        if rows.any()
    }


def summarise_clips(
    clips: Clips, task: "Task", answers: Mapping[str, Outcome], *, method: str, resamples: int
) -> Result:
    """The result of answers about clips, all of them and parts."""
    whole = answers["top1"]
    values = {name: own.value("top1") for name, own in answers.items()}
    drawn = answers if resamples else {}
    intervals = {name: bootstrap_interval([own], "top1", resamples=resamples) for name, own in drawn.items()}
    return Result(
        task=task.name,
        dataset=clips.name,
        split=clips.split,
        n=len(clips),
        protocol="video",
        method=method,
        model="",
        metric="top1",
        value=values["top1"],
        interval=intervals.pop("top1", None),
        top1=values["top1"],
        metrics=values | {"mean-per-class": whole.value("mean-per-class"), "top5": whole.top5},
        intervals=intervals,
        baseline="the most frequent class",
        baselines={name: float(np.bincount(own.labels).max() / len(own.labels)) for name, own in answers.items()},
        templates=list(task.templates),
        missing_classes=[name for i, name in enumerate(task.classes) if i not in whole.labels],
        rejected=clips.rejected,
        **mistakes(count_answers([whole]), task.classes),
        outcomes=[whole],
    )


def beside_untrained(
    result: Result, answers: Mapping[str, Outcome], untrained: Mapping[str, Outcome], resamples: int
) -> Result:
    """The result with the untrained model's figures on the same clips and the paired gains over them."""
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    for name, other in untrained.items():
        gain, low_high = paired_gain([answers[name]], [other], "top1", resamples=resamples)
        metrics |= {f"zero-shot-{name}": other.value("top1"), f"gain-{name}": gain / 100}
        if low_high is not None:
            intervals[f"zero-shot-{name}"] = bootstrap_interval([other], "top1", resamples=resamples)
            intervals[f"gain-{name}"] = (low_high[0] / 100, low_high[1] / 100)
    return result.model_copy(update={"metrics": metrics, "intervals": intervals})
