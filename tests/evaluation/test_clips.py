"""Clips from rows and from video files: decoded when asked for, once; what can't be read is rejected."""

import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retroclip.errors import BadImageError, SourceError
from retroclip.evaluation import clips as reading
from retroclip.evaluation.clips import Frames, load_clips, read_video, spread
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.video import survey
from retroclip.tasks import Task

from .test_regions import ColourEncoder, picture

TASK = Task("colours", classes=["red", "green", "blue"])


def write(path, rows):
    columns = ("image", "clip", "frame", "label")
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(columns)}), path)
    return str(path)


def clip_rows(left=0, clips=12, frames=3):
    """Rows of clips of red, green and blue in turn, from the last frame to the first, each starting at `left`."""
    made = []
    for clip, label in enumerate((["red", "green", "blue"] * clips)[:clips]):
        for frame in reversed(range(frames)):
            made.append((picture([(label, left, 0, 20 if frame else 10, 29 - clip % 5)]), f"c{clip}", frame, label))
    return made


@pytest.fixture
def rows():
    return clip_rows()


def test_clips_that_can_not_be_used(tmp_path, rows):
    broken = [*rows, *rows, (b"x", "bad", 0, "red")]
    broken = [(image, f"{clip}-{i // 36}", frame, label) for i, (image, clip, frame, label) in enumerate(broken)]
    clips = load_clips(write(tmp_path / "a.parquet", broken))
    assert len(clips) == 25 and not clips.rejected
    assert [row for part in clips.readable() for row in part] == [*range(24)]
    assert len(clips) == 24 and "bad-2" in clips.rejected[0]
    with pytest.raises(SourceError, match="labels"):
        load_clips(write(tmp_path / "b.parquet", [rows[0], (*rows[1][:3], "green")]))
    with pytest.raises(SourceError, match="can't be read"):
        survey(load_clips(write(tmp_path / "c.parquet", [(b"x", "a", 0, "red")])), ColourEncoder())


def test_spread_takes_the_middles():
    assert spread(3, 8).tolist() == [0, 1, 2]
    assert spread(16, 4).tolist() == [2, 6, 10, 14]


def make_video(path, colour=0, frames=12, codec="mpeg4", without=0):
    """A video that grows lighter, written but for its first packets."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 6
        packets = []
        for i in range(frames):
            values = np.zeros((48, 64, 3), np.uint8)
            values[:40, :, colour] = 100 + 8 * i
            packets += stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24"))
        for packet in (packets + stream.encode())[without:]:
            container.mux(packet)


@pytest.fixture
def folder(tmp_path):
    for colour, name in enumerate(("red", "green", "blue")):
        (tmp_path / name).mkdir()
        for i in range(4):
            make_video(tmp_path / name / f"{i}.mp4", colour, frames=6 + i)
    return tmp_path


def test_video_files(folder):
    assert len(read_video(folder / "red" / "0.mp4", 5)) == 5
    (folder / "red" / "broken.mp4").write_bytes(b"not a video")
    result = run_protocol("video", ColourEncoder(), TASK, folder)
    assert result.value == 1 and result.n == 12 and len(result.rejected) == 1
    with pytest.raises(BadImageError, match="can't be read"):
        read_video(folder / "red" / "broken.mp4")
    for i in range(4):
        (folder / "blue" / f"{i}.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match="clips can't be read"):
        survey(load_clips(folder), ColourEncoder())


def test_where_chooses_files_and_hidden_ones_are_no_clips(folder):
    for name in ("._0.mp4", ".trash/0.mp4", "__MACOSX/red/0.mp4"):
        (folder / "red" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "red" / name).write_bytes(b"not a video")
    assert load_clips(folder, where="label = 'red' AND key != 'red/0'").keys == ["red/1", "red/2", "red/3"]
    with pytest.raises(SourceError, match="has no column 'split'; it has: key, label"):
        load_clips(folder, where="split = 'val'")
    with pytest.raises(SourceError, match="no labelled clip"):
        load_clips(folder, where="label = 'yellow'")


def test_a_file_is_decoded_when_asked_for_and_once(folder, monkeypatch):
    decoded = []

    def counted(path, positions):
        decoded.append(path.name)
        return whole(path, positions)

    whole = reading._decoded
    monkeypatch.setattr(reading, "_decoded", counted)
    clips = load_clips(folder)
    assert len(clips) == 12 and not decoded  # nothing is held but paths
    run_protocol("video", ColourEncoder(), TASK, folder)
    assert len(decoded) == 12


def test_frames_are_turned_as_the_file_says(tmp_path):
    path = tmp_path / "a.mp4"
    make_video(path)
    plain, stored = read_video(path, 1)[0], bytearray(path.read_bytes())
    matrix = stored.index(b"tkhd") + 44
    stored[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(stored)
    (turned,) = read_video(path, 1)  # by a quarter to the right
    assert turned.size == (48, 64) and turned.tobytes() == plain.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize(("codec", "without"), [("mpeg4", 0), ("mpeg2video", 0), ("mpeg2video", 1)])
def test_frames_are_those_of_all_that_can_be_decoded(tmp_path, codec, without):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mkv"
    make_video(path, frames=18, codec=codec, without=without)
    with av.open(str(path)) as container:
        expected = sum(1 for packet in container.demux(video=0) if packet.size)
    with av.open(str(path)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    assert expected == 18 - without and len(images) == (12 if without else 18)  # a group of pictures lost its key frame
    shown = [image.tobytes() for image in read_video(path, 4)]
    assert shown == [images[i].tobytes() for i in spread(len(images), 4)]


def test_frames_of_clips_as_one_sequence(folder, rows):
    frames = Frames(load_clips(folder, frames=5))
    assert len(frames) == 60
    clips = load_clips(folder, frames=5)
    assert [frames[i].tobytes() for i in (0, 4, 5, 59)] == [
        clips[clip][place].tobytes() for clip, place in ((0, 0), (0, 4), (1, 0), (11, 4))
    ]
    with pytest.raises(IndexError):
        frames[60]
    encoded = Frames(load_clips(write(folder / "a.parquet", rows)))
    assert [encoded[i] for i in range(3)] == [rows[2][0], rows[1][0], rows[0][0]]
