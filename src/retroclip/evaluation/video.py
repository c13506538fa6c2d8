"""Zero-shot video classification: the embeddings of a clip's frames are averaged (methods.md, section 2)."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from retroclip.errors import BadImageError, RetroclipError, SourceError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval
from retroclip.evaluation.classification import head
from retroclip.evaluation.mistakes import count_answers, mistakes
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result, hash_samples
from retroclip.evaluation.samples import MAX_REJECTED, class_indices
from retroclip.evaluation.training_set import of_training

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.tasks import Task

VIDEO_SUFFIXES = frozenset([".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"])


@dataclass(eq=False)
class Clips:
    """Clips with one label each; `frames` are encoded or PIL images in order."""

    name: str
    split: str | None
    keys: list[str] = field(default_factory=list)
    frames: list[list[bytes | Image.Image]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


def load_clips(dataset: str | Path, *, where: str | None = None, frames: int = 8) -> Clips:
    """Clips from a folder of class folders with video files, or from rows with `clip`, `frame` and `label` columns.

    Of a clip with more than `frames` frames, as many are taken at equal distances. A video or frame that can't be read
    rejects its clip. Raises SourceError: no clip, over 10 % rejected, or PyAV missing for video files.
    """
    if frames < 1:
        raise RetroclipError(f"a clip needs at least one frame, not {frames}")
    text, _, split = str(dataset).partition("#")
    clips = Clips(Path(text).stem, split or None)
    root = Path(text) / split if split else Path(text)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES) if root.is_dir() else []
    if files:
        _from_files(clips, root, files, frames)
    else:
        _from_rows(clips, dataset, where, frames)
    if not len(clips) and not clips.rejected:
        raise SourceError(f"{dataset} has no labelled clip: rows need `clip`, `frame` and `label`, folders video files")
    if len(clips.rejected) > MAX_REJECTED * (len(clips) + len(clips.rejected)):
        raise SourceError(f"{dataset}: {len(clips.rejected)} clips can't be read, such as {clips.rejected[0]}")
    return clips


def _from_files(clips: Clips, root: Path, files: list[Path], frames: int) -> None:
    for path in files:
        key = path.relative_to(root).with_suffix("").as_posix()
        try:
            decoded = read_video(path, frames)
        except BadImageError as error:
            clips.rejected.append(f"{key}: {error}")
            continue
        clips.keys.append(key)
        clips.frames.append(list(decoded))
        clips.labels.append(path.parent.name)


def _from_rows(clips: Clips, dataset: str | Path, where: str | None, frames: int) -> None:
    from retroclip.pairs import Rejected, decode_image, read_pairs

    found: dict[str, list[tuple[int, bytes]]] = {}
    labels: dict[str, str] = {}
    for pair in read_pairs(dataset, where=where):
        if isinstance(pair, Rejected):
            clips.rejected.append(f"{pair.key}: {pair.reason}")
            continue
        if pair.image is None or pair.label is None:
            continue
        key = str(pair.metadata.get("clip", pair.key))
        if labels.setdefault(key, pair.label) != pair.label:
            raise SourceError(f"{dataset}: the frames of clip {key!r} have labels {labels[key]!r} and {pair.label!r}")
        try:
            position = int(pair.metadata.get("frame") or 0)
        except (TypeError, ValueError):
            raise SourceError(f"{dataset}: `frame` of clip {key!r} is no number") from None
        found.setdefault(key, []).append((position, pair.image))
    for key, own in found.items():
        ordered = [image for _, image in sorted(own, key=lambda row: row[0])]
        chosen = [ordered[i] for i in spread(len(ordered), frames)]
        try:
            for image in chosen:
                decode_image(image)
        except BadImageError as error:
            clips.rejected.append(f"{key}: {error}")
            continue
        clips.keys.append(key)
        clips.frames.append(list(chosen))
        clips.labels.append(labels[key])


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Positions of `wanted` frames out of `count`, the middles of equal parts; all of them where there are fewer."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def read_video(path: Path, frames: int = 8) -> list[Image.Image]:
    """Frames of a video file at equal distances, decoded by PyAV.

    Raises BadImageError where it can't be read or has no frame, SourceError where PyAV isn't installed.
    """
    try:
        import av
    except ImportError:
        raise SourceError("video files need PyAV: install it with `pip install 'retroclip[video]'`") from None
    try:
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
        wanted = set(spread(count, frames).tolist())
        with av.open(str(path)) as container:
            images = [f.to_image() for i, f in enumerate(container.decode(video=0)) if i in wanted]
    except Exception as error:  # PyAV's errors are of many kinds, IndexError (no video stream) among them
        raise BadImageError(f"the video can't be read: {' '.join(str(error).split())[:100]}") from None
    if not images:
        raise BadImageError("the video has no frame")
    return images


def embed_clips(encoder: "Encoder", clips: Clips) -> torch.Tensor:
    """Embeddings (n, d), unit norm: the mean of each clip's frame embeddings."""
    flat = [frame for own in clips.frames for frame in own]
    parts = encoder.encode_images(flat).split([len(own) for own in clips.frames])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


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
    architecture: Literal["small", "tiny"] = "small",
    resamples: int = RESAMPLES,
) -> Result:
    """Top-1 over clips by the mean embedding of `frames` frames. Baseline: the most frequent class.

    With `train`, other clips, a video transformer from random weights learns them with the class texts as its
    classifier (`training.video`), and is evaluated instead: on classes it was trained on or others.

    Raises SourceError as `load_clips`, TaskError for labels the task lacks.
    """
    start = time.perf_counter()
    clips, classifier = load_clips(dataset, where=where, frames=frames), head(model, task)
    labels = class_indices(clips.labels, task, str(dataset))
    options: dict[str, Any] = {"frames": frames}
    if train is None:
        embeddings = embed_clips(classifier.encoder, clips)
    else:
        from retroclip.training.video import train_video

        learnt = load_clips(train, frames=frames)
        if {tuple(map(id_of, own)) for own in learnt.frames} & {tuple(map(id_of, own)) for own in clips.frames}:
            raise SourceError(f"{train} holds clips that are evaluated: train on another split")
        clips.rejected += of_training(learnt.rejected)
        known = class_indices(learnt.labels, task, train).tolist()
        tower = train_video(
            classifier.encoder, task, learnt.frames, known, frames=frames, architecture=architecture, epochs=epochs,
            seed=seed,
        )  # fmt: skip
        embeddings, method = tower.embed(clips.frames, frames), "video-transformer"
        options |= {"train": train, "epochs": epochs, "seed": seed, "architecture": architecture}
    with torch.no_grad():
        logits = classifier(embeddings).float().cpu().numpy()
    outcome = Outcome.from_logits(logits, labels, keep_scores=False)
    seconds = time.perf_counter() - start
    return summarise_clips(clips, task, outcome, classifier.encoder, method=method or "zero-shot", resamples=resamples,
                           seconds=seconds, options=options, seed=None if train is None else seed)  # fmt: skip


def id_of(frame: bytes | Image.Image) -> bytes:
    """What tells a frame from another one."""
    return frame if isinstance(frame, bytes) else frame.tobytes()


def summarise_clips(
    clips: Clips, task: "Task", outcome: Outcome, encoder: "Encoder", *, method: str, resamples: int, seconds: float,
    options: dict, seed: int | None = None,
) -> Result:  # fmt: skip
    """The result of answers about clips."""
    value = outcome.value("top1")
    blobs = [b"".join(map(id_of, own)) for own in clips.frames]
    return Result(
        task=task.name,
        dataset=clips.name,
        split=clips.split,
        n=len(clips),
        protocol="video",
        method=method,
        model=str(getattr(encoder, "name", "")),
        metric="top1",
        value=value,
        interval=bootstrap_interval([outcome], "top1", resamples=resamples) if resamples else None,
        top1=value,
        metrics={"top1": value, "mean-per-class": outcome.value("mean-per-class"), "top5": outcome.top5},
        baseline="the most frequent class",
        baselines={"top1": float(np.bincount(outcome.labels).max() / len(clips))},
        templates=list(task.templates),
        rejected=clips.rejected,
        seconds=seconds,
        predict_seconds=seconds,
        seed=seed,
        fingerprint=getattr(encoder, "fingerprint", None),
        precision=getattr(encoder, "precision", None),
        data_hash=hash_samples(blobs, clips.labels),
        options=options,
        **mistakes(count_answers([outcome]), task.classes),
        outcomes=[outcome],
    )
