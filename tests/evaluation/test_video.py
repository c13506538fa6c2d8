"""Video: frames averaged, or a transformer that learns some classes, beside the untrained model on the same clips."""

import io

import pytest
import torch
from PIL import Image

import retroclip
from retroclip.errors import SourceError, TaskError
from retroclip.evaluation.clips import load_clips
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.video import survey
from retroclip.tasks import Task

from .test_clips import TASK, clip_rows, write
from .test_regions import ColourEncoder, picture


@pytest.fixture
def rows():
    return clip_rows()


@pytest.fixture
def encoder(tiny_model):
    return retroclip.load(tiny_model(0), precision="fp32")


def test_frames_are_averaged_in_order(tmp_path, rows):
    clips = load_clips(write(tmp_path / "a.parquet", rows))
    assert len(clips) == 12 and len(clips[0]) == 3 and clips.sources[0][0] == rows[2][0]
    one = ColourEncoder().encode_images(clips[0]).mean(0)
    torch.testing.assert_close(survey(clips, ColourEncoder()).embeddings[0], one / one.norm())
    result = run_protocol("video", ColourEncoder(), TASK, tmp_path / "a.parquet")
    assert result.value == 1 and result.n == 12 and result.baselines["top1"] == pytest.approx(1 / 3)
    assert result.options == {"frames": 8, "short_clips": 12}
    assert (
        run_protocol("video", ColourEncoder(), TASK, f"{tmp_path}/a.parquet", options={"frames": 3}).options[
            "short_clips"
        ]
        == 0
    )
    with pytest.raises(TaskError, match="blue"):
        run_protocol("video", ColourEncoder(), Task("two", classes=["red", "green"]), tmp_path / "a.parquet")


def test_a_video_transformer_beside_the_untrained_model(tmp_path, rows, encoder):
    known = [row for row in clip_rows(left=15, clips=15, frames=1) if row[3] != "blue"]
    train = write(tmp_path / "train.parquet", [*known, (b"x", "bad", 0, "red")])
    val = write(tmp_path / "val.parquet", [row for row in rows if row[2] == 0])
    options = {"frames": 2}
    untrained = run_protocol("video", encoder, TASK, val, options=options)
    result = run_protocol("video", encoder, TASK, val, options=options | {"train": train, "epochs": 1})
    assert result.seed == 0 and untrained.seed is None and result.data_hash == untrained.data_hash
    assert result.method == "video-transformer" and result.n == 12
    assert len(result.rejected) == 1 and result.rejected[0].startswith("training set: bad: ")
    metrics, intervals = result.metrics, result.intervals
    assert metrics["top1"] == pytest.approx((4 * metrics["top1-novel"] + 8 * metrics["top1-base"]) / 12)
    assert metrics["zero-shot-top1"] == untrained.value and intervals["zero-shot-top1"] == untrained.interval
    novel = [each == "blue" for each in ["red", "green", "blue"] * 4]
    outcome = untrained.outcomes[0]
    assert metrics["zero-shot-top1-novel"] == outcome.correct[novel].mean()
    for part in ("top1", "top1-novel", "top1-base"):
        assert metrics[f"gain-{part}"] == pytest.approx(metrics[part] - metrics[f"zero-shot-{part}"])
        low, high = intervals[f"gain-{part}"]
        assert low <= metrics[f"gain-{part}"] <= high
    assert result.baselines == {"top1": 1 / 3, "top1-novel": 1, "top1-base": 1 / 2}
    assert result.trained_parameters > 1000 and result.options["training_clips"] == 10


def test_novel_classes_of_the_task_are_not_learnt(tmp_path, rows, encoder):
    train = write(tmp_path / "train.parquet", clip_rows(left=15))
    val = write(tmp_path / "val.parquet", [row for row in rows if row[2] == 0])
    task = TASK.model_copy(update={"novel": ["blue"]})
    result = run_protocol("video", encoder, task, val, options={"train": train, "epochs": 0, "frames": 2})
    assert result.options["training_clips"] == 8 and "top1-novel" in result.metrics
    none = TASK.model_copy(update={"novel": TASK.classes})
    with pytest.raises(SourceError, match="no clip to learn"):
        run_protocol("video", encoder, none, val, options={"train": train})


def test_clips_that_are_evaluated_are_not_learnt(tmp_path, rows, encoder):
    def other_format(image):
        stream = io.BytesIO()
        Image.open(io.BytesIO(image)).save(stream, "BMP")
        return stream.getvalue()

    val = write(tmp_path / "val.parquet", rows)
    again = [(other_format(image), f"again-{clip}", frame, label) for image, clip, frame, label in rows]
    for learnt in (rows, again, [*clip_rows(left=15)[:-3], *again[-1:]]):
        train = write(tmp_path / "train.parquet", learnt)
        with pytest.raises(SourceError, match="another split"):
            run_protocol("video", encoder, TASK, val, options={"train": train})
    # Nearly the same clips are left out, and counted.
    train = write(tmp_path / "train.parquet", [*clip_rows(left=1)[:6], *clip_rows(left=15)[6:]])
    result = run_protocol("video", encoder, TASK, val, options={"train": train, "epochs": 0, "frames": 2})
    assert (result.options["training_clips"], result.options["train_near_duplicates"]) == (10, 2)
    with pytest.raises(SourceError, match="no clip to learn: 12 nearly are evaluated"):
        near = write(tmp_path / "near.parquet", clip_rows(left=1))
        run_protocol("video", encoder, TASK, val, options={"train": near})
    blank = picture([])  # as at the end of a fade, which unlike clips share

    def faded(own, ends):
        return [row for row in own if not row[2]] + [(blank, f"{end}", 1, label) for end, label in ends]

    ends = [(f"c{i}", label) for i, label in enumerate(["red", "green", "blue"])]
    train = write(tmp_path / "train.parquet", faded(clip_rows(left=15), ends))
    val = write(tmp_path / "val.parquet", faded(rows, ends))
    run_protocol("video", encoder, TASK, val, options={"train": train, "epochs": 0, "frames": 2})
