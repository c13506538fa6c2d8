"""Clips from rows and from video files; frames averaged; what can't be read is rejected."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from retroclip.errors import BadImageError, SourceError, TaskError
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.video import embed_clips, load_clips, read_video, spread
from retroclip.tasks import Task

from .test_regions import ColourEncoder, picture

TASK = Task("colours", classes=["red", "green", "blue"])


def write(path, rows):
    columns = ("image", "clip", "frame", "label")
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(columns)}), path)
    return str(path)


@pytest.fixture
def rows():
    made = []
    for clip, label in enumerate(["red", "green", "blue"] * 4):
        for frame in reversed(range(3)):
            made.append((picture([(label, 0, 0, 40 if frame else 10, 30)]), f"c{clip}", frame, label))
    return made


def test_frames_are_averaged_in_order(tmp_path, rows):
    clips = load_clips(write(tmp_path / "a.parquet", rows))
    assert len(clips) == 12 and len(clips.frames[0]) == 3 and clips.frames[0][0] == rows[2][0]
    one = ColourEncoder().encode_images(clips.frames[0]).mean(0)
    torch.testing.assert_close(embed_clips(ColourEncoder(), clips)[0], one / one.norm())
    result = run_protocol("video", ColourEncoder(), TASK, tmp_path / "a.parquet")
    assert result.value == 1 and result.n == 12 and result.baselines["top1"] == pytest.approx(1 / 3)
    with pytest.raises(TaskError, match="blue"):
        run_protocol("video", ColourEncoder(), Task("two", classes=["red", "green"]), tmp_path / "a.parquet")


def test_clips_that_can_not_be_used(tmp_path, rows):
    broken = [*rows, *rows, (b"x", "bad", 0, "red")]
    broken = [(image, f"{clip}-{i // 36}", frame, label) for i, (image, clip, frame, label) in enumerate(broken)]
    clips = load_clips(write(tmp_path / "a.parquet", broken))
    assert len(clips) == 24 and "bad-2" in clips.rejected[0]
    with pytest.raises(SourceError, match="labels"):
        load_clips(write(tmp_path / "b.parquet", [rows[0], (*rows[1][:3], "green")]))
    with pytest.raises(SourceError, match="can't be read"):
        load_clips(write(tmp_path / "c.parquet", [(b"x", "a", 0, "red")]))


def test_spread_takes_the_middles():
    assert spread(3, 8).tolist() == [0, 1, 2]
    assert spread(16, 4).tolist() == [2, 6, 10, 14]


def make_video(path, colour, frames=12):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            values = np.zeros((48, 64, 3), np.uint8)
            values[..., colour] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())


def test_video_files(tmp_path):
    for colour, name in enumerate(("red", "green", "blue")):
        (tmp_path / name).mkdir()
        for i in range(4):
            make_video(tmp_path / name / f"{i}.mp4", colour)
    assert len(read_video(tmp_path / "red" / "0.mp4", 5)) == 5
    (tmp_path / "red" / "broken.mp4").write_bytes(b"not a video")
    result = run_protocol("video", ColourEncoder(), TASK, tmp_path)
    assert result.value == 1 and result.n == 12 and len(result.rejected) == 1
    with pytest.raises(BadImageError, match="can't be read"):
        read_video(tmp_path / "red" / "broken.mp4")
    for i in range(4):
        (tmp_path / "blue" / f"{i}.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match="clips can't be read"):
        load_clips(tmp_path)


def test_a_video_transformer_learns_and_answers_for_other_classes(tmp_path, rows, tiny_model):
    import retroclip

    encoder = retroclip.load(tiny_model(0), precision="fp32")
    known = [row for row in rows if row[3] != "blue"]
    more = [(image, f"more-{clip}", frame, label) for image, clip, frame, label in known]
    train = write(tmp_path / "train.parquet", [*known, *more, (b"x", "bad", 0, "red")])
    shifted = [(image + b" ", f"val-{clip}", frame, label) for image, clip, frame, label in rows]
    val = write(tmp_path / "val.parquet", shifted)
    result = run_protocol("video", encoder, TASK, val, options={"train": train, "epochs": 3})
    assert result.seed == 0 and run_protocol("video", encoder, TASK, val).seed is None
    assert result.method == "video-transformer" and result.n == 12 and 0 <= result.value <= 1
    assert len(result.rejected) == 1 and result.rejected[0].startswith("training set: bad: ")
    with pytest.raises(SourceError, match="another split"):
        run_protocol("video", encoder, TASK, train, options={"train": train})


def test_training_lowers_the_loss(rows, tiny_model):
    import retroclip
    from retroclip.training.video import VideoTower, train_video

    encoder = retroclip.load(tiny_model(0), precision="fp32")
    clips = [[row[0] for row in rows[i : i + 3]] for i in range(0, len(rows), 3)]
    losses = []
    train_video(
        encoder, TASK, clips, [0, 1, 2] * 4, frames=4, size=32, epochs=6, on_epoch=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    assert VideoTower(encoder, size=32).pixels(clips[0], 4).shape == (3, 4, 32, 32)
