"""What the issue calls wrong inputs, as files on the command line: one clear line, or a counted rejection."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

GOOD = {"label": "RBC", "x": 4.0, "y": 4.0, "w": 20.0, "h": 20.0}
BOXES = {
    "outside": (GOOD | {"x": 60.0}, "a box outside the image of 48 x 32 pixels"),
    "zero-area": (GOOD | {"w": 0.0}, "a box of no area (0 x 20)"),
    "negative": (GOOD | {"h": -3.0}, "a box of no area (20 x -3)"),
    "not a number": (GOOD | {"x": float("nan")}, "a box with values that aren't finite"),
}


def png(values):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def write(tmp_path, make_encoded):
    """`write("a.parquet", split=…, boxes=…)`: a parquet file with as many images as the columns have rows."""

    def make(name, **columns):
        count = len(next(iter(columns.values())))
        table = pa.table({"image": [make_encoded(i) for i in range(count)]} | columns)
        pq.write_table(table, tmp_path / name)
        return name

    return make


@pytest.mark.parametrize("protocol", ["regions", "detection --set.limit 10 --set.features dense"])
@pytest.mark.parametrize("problem", BOXES)
def test_wrong_boxes_are_counted_and_too_many_stop(run, model, write, protocol, problem):
    bad, said = BOXES[problem]
    file = write("some.parquet", boxes=[[GOOD] for _ in range(11)] + [[GOOD, bad]])
    shown = run(f"evaluate {model} bccd {file} --protocol {protocol} --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert len(result["rejected"]) == 1 and result["rejected"][0].endswith(said) and result["options"]["boxes"] == 12
    clean = write("clean.parquet", boxes=[[GOOD] for _ in range(12)])
    again = json.loads(run(f"evaluate {model} bccd {clean} --protocol {protocol} --json").out)
    assert again["value"] == result["value"] and again["per_class"] == result["per_class"]
    shown = run(f"evaluate {model} bccd {write('bad.parquet', boxes=[[GOOD, bad]] * 4)} --protocol {protocol}")
    assert shown.status == 1 and "4 boxes or images can't be used" in shown.line and said in shown.line


def test_masks_of_another_size_are_counted_and_too_many_stop(run, model, write):
    good, turned = png(np.tile([0, 1, 2, 3], (32, 12))), png(np.zeros((48, 32)))
    task = "'sky, road, tree, car'"
    masks = {"some": [good] * 11 + [turned], "bad": [good, turned], "void": [png(np.full((32, 48), 255))] * 3}
    some, bad, void = (write(f"{name}.parquet", mask=own) for name, own in masks.items())
    shown = run(f"evaluate {model} {task} {some} --protocol segmentation --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert result["n"] == 11 and "a mask of 32 x 48 for an image of 48 x 32 pixels" in result["rejected"][0]
    shown = run(f"evaluate {model} {task} {bad} --protocol segmentation")
    assert shown.status == 1 and "can't be used" in shown.line
    shown = run(f"evaluate {model} {task} {void} --protocol segmentation")
    assert shown.status == 1 and "no pixel of any class" in shown.line


def test_classes_that_the_task_lacks_are_named(run, model, write):
    file = write(
        "a.parquet", label=["cat", "dog"], boxes=[[GOOD], [GOOD]], mask=[png(np.full((32, 48), 7))] * 2
    )  # fmt: skip
    for protocol, said in (
        ("classification", "labels that task 'classes' lacks: 'dog'"),
        ("regions", "has boxes of 'RBC', which task 'classes' lacks"),
        ("detection", "has boxes of 'RBC', which task 'classes' lacks"),
        ("segmentation", "has pixels of 7, but task 'classes' has 0 (cat) to 1 (bird)"),
        ("typographic-attack", "labels that task 'classes' lacks: 'dog'"),
        ("video", "labels that task 'classes' lacks: 'dog'"),
    ):
        shown = run(f"evaluate {model} 'cat, bird' {file} --protocol {protocol}")
        assert shown.status == 1 and said in shown.line, (protocol, shown.err)


def test_empty_splits_are_named(run, model, write):
    columns = {
        "label": ["cat", "dog"], "caption": ["a cat", "a dog"], "split": ["train", "val"],
        "boxes": [[GOOD], [GOOD]], "mask": [png(np.zeros((32, 48)))] * 2,
    }  # fmt: skip
    file = write("a.parquet", **columns)
    for protocol in ("classification", "regions", "detection", "segmentation", "video", "typographic-attack"):
        shown = run(f"evaluate {model} 'cat, dog' {file}#test --protocol {protocol}")
        assert shown.status == 1 and "train, val" in shown.line, (protocol, shown.err)
        shown = run(f"""evaluate {model} 'cat, dog' {file} --protocol {protocol} --where "label = 'bird'" """)
        assert shown.status == 1 and ("has no" in shown.line or "no labelled" in shown.line), (protocol, shown.err)
    shown = run(f"evaluate {model} image-text-retrieval {file}#test")
    assert shown.status == 1 and "train, val" in shown.line


@pytest.fixture
def damaged(model, tmp_path):
    """The same model with a weight that isn't a number."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((model / "open_clip_config.json").read_bytes())
    tensors = load_file(model / "open_clip_model.safetensors")
    tensors["visual.proj"][0, 0] = float("nan")
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


def test_scores_that_are_no_numbers_never_become_a_figure(run, damaged, write):
    columns = {
        "label": ["RBC", "WBC"], "caption": ["a cell", "two cells"], "boxes": [[GOOD], [GOOD]],
        "mask": [png(np.zeros((32, 48)))] * 2,
    }  # fmt: skip
    file = write("a.parquet", **columns)
    for protocol in (
        "classification", "regions", "regions --set.features dense", "detection", "detection --set.features dense",
        "segmentation", "video", "typographic-attack",
    ):  # fmt: skip
        shown = run(f"evaluate {damaged} bccd {file} --protocol {protocol}")
        assert shown.status == 1 and not shown.out, protocol
        assert "finite" in shown.line or "NaN" in shown.line, (protocol, shown.err)
    shown = run(f"evaluate {damaged} image-text-retrieval {file}")
    assert shown.status == 1 and ("finite" in shown.line or "NaN" in shown.line)


def video(path, frames=6):
    """A real file of grey frames, each lighter than the one before."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for i in range(frames):
            values = np.full((48, 64, 3), 40 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())


def test_unreadable_videos_are_counted_and_too_many_stop(run, model, tmp_path):
    for label in ("walk", "run"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number in range(5):
            video(tmp_path / "clips" / label / f"{number}.mp4")
    (tmp_path / "clips" / "run" / "broken.mp4").write_bytes(b"no video at all")
    shown = run(f"evaluate {model} 'walk, run' clips --protocol video --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert result["n"] == 10 and result["rejected"][0].startswith("run/broken: the video can't be read")
    whole = (tmp_path / "clips" / "walk" / "0.mp4").read_bytes()
    (tmp_path / "clips" / "run" / "half.mp4").write_bytes(whole[: len(whole) // 3])
    shown = run(f"evaluate {model} 'walk, run' clips --protocol video")
    assert shown.status == 1 and "2 clips can't be read" in shown.line


def test_unreadable_frames_are_counted(run, model, tmp_path, make_encoded):
    rows = [(f"c{clip:02}", frame) for clip in range(11) for frame in range(2)]
    images = [b"no image" if row == ("c03", 1) else make_encoded(i) for i, row in enumerate(rows)]
    columns = {
        "image": images, "clip": [clip for clip, _ in rows], "frame": [frame for _, frame in rows],
        "label": ["walk" if int(clip[1:]) % 2 else "run" for clip, _ in rows],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    shown = run(f"evaluate {model} 'walk, run' clips.parquet --protocol video --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert result["n"] == 10 and result["rejected"][0].startswith("c03: ")


def test_boxes_that_are_none_are_no_labels(run, model, write):
    for number, boxes in enumerate((["x", "y"], [[1.0, 2.0]] * 2)):
        file = write(f"{number}.parquet", boxes=boxes)
        shown = run(f"evaluate {model} bccd {file} --protocol classification")
        assert shown.status == 1 and "no labelled image, but 2 images without a label" in shown.line
        shown = run(f"evaluate {model} bccd {file}")
        assert shown.status == 1 and "a box isn't (label, x, y, w, h)" in shown.line


def test_an_empty_name_is_not_this_folder(run, model):
    shown = run(f"evaluate {model} bccd ''")
    assert shown.status == 1 and "the name of a source is empty" in shown.line
