"""`evaluate` by protocols: the task's own or one asked for, with options; one line for what can't be."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def png(values):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def boxed(tmp_path, make_encoded):
    boxes = [[{"label": name, "x": 4.0, "y": 4.0, "w": 20.0, "h": 20.0}] for name in ("RBC", "WBC", "Platelets") * 2]
    boxes[0].append({"label": "RBC", "x": 4.0, "y": 4.0, "w": 0.0, "h": 20.0})
    table = pa.table({"image": [make_encoded(i) for i in range(6)], "boxes": boxes, "label": ["RBC"] * 6})
    pq.write_table(table, tmp_path / "boxes.parquet")
    return "boxes.parquet"


def test_the_task_chooses_and_the_user_may_choose_another(run, model, boxed):
    shown = run(f"evaluate {model} bccd {boxed} --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert (result["protocol"], result["metric"], len(result["rejected"])) == ("regions", "ap", 1)
    shown = run(f"evaluate {model} bccd {boxed} --protocol detection --set.features dense --set.limit=20 --json")
    result = json.loads(shown.out)
    assert (result["protocol"], result["metric"], result["options"]["limit"]) == ("detection", "ap50", 20)
    shown = run(f"evaluate {model} bccd {boxed}")
    assert "Baseline, random scores" in shown.out and "boxes could not be used" in shown.out
    assert json.loads(run(f"evaluate {model} bccd {boxed} --protocol classification --json").out)["metric"] == "top1"


def test_clips_of_a_video_task_count_once(run, model, memory, tmp_path, make_encoded):
    columns = {"image": [make_encoded(i) for i in range(6)], "label": ["Punch", "Punch", *["Surfing"] * 4]}
    columns |= {"clip": [str(i // 2) for i in range(6)], "frame": [0, 1] * 3}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    result = json.loads(run(f"evaluate {model} ucf101 clips.parquet --json").out)
    assert (result["protocol"], result["n"]) == ("video", 3)
    shown = run(f"evaluate {model} ucf101 clips.parquet --protocol classification --json")
    assert json.loads(shown.out)["n"] == 6
    shown = run(f"evaluate {model} ucf101 clips.parquet --metric top1")
    assert shown.status == 2 and "video has no use for it (labelled images one by one: --protocol" in shown.line
    shown = run(f"compare {model} ucf101 clips.parquet --memory mem --methods zero-shot")
    assert shown.status == 0 and "compare counts images one by one; video, the protocol of ucf101" in shown.err
    videos = {row["task"] for row in json.loads(run("tasks --json").out) if row["protocol"] == "video"}
    assert videos == {"hmdb51", "kinetics400", "kinetics600", "ucf101"}


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("bccd {} --set.colour red", 1, "has no option 'colour'"),
        ("bccd {} --protocol depth", 1, "no protocol is called 'depth'"),
        ("bccd {} --protocol classification --set.size 3", 2, "--protocol"),
        ("bccd {} --protocol segmentation", 1, "has no mask"),
        ("'RBC, WBC' {} --protocol regions", 1, "boxes of 'Platelets'"),
        ("bccd {} --protocol corrupted-neighbours", 1, "consults a memory"),
        ("bccd {} --protocol entities", 1, "names no unseen classes"),
        ("bccd {} --protocol detection --set.proposals missing.json", 1, "missing.json"),
        ("coco-half {} --protocol detection --set.train {}", 1, "lacks"),
        ("bccd {} --protocol detection --set.epochs 3", 1, "option epochs of protocol detection is for training"),
        ("bccd {} --set.size 224", 1, "option size of protocol regions is for dense features"),
        ("bccd {} --set.context 2 --set.features dense", 1, "is for features cut out"),
        ("bccd {} --protocol segmentation --set.train {} --set.smoothing true", 1, "is for the untrained model"),
        ("bccd {} --method linear-probe", 1, "linear-probe learns from labelled images"),
        ("image-text-retrieval {} --method fine-tune", 1, "fine-tune learns from labelled images"),
        ("bccd {} --metric map11", 2, "leave out --metric: regions has no use"),
        ("bccd {} --train {}", 2, "leave out --train: regions has no use"),
        ("bccd {} --protocol detection --train {}", 2, "learns from --set.train"),
        ("bccd {} --set.features dense --set.size 0", 1, "option size of protocol regions is at least 1, not 0"),
        (
            "bccd {} --protocol detection --set.train a --set.epochs -1",
            1,
            "option epochs of protocol detection is at least 0",
        ),
        (
            "bccd {} --protocol typographic-attack --set.seed -1",
            1,
            "option seed of protocol typographic-attack is at least 0",
        ),
        ("bccd {} --seed 3", 2, "regions by zero-shot trains and draws nothing: leave out --seed"),
        ("bccd {} --protocol detection --seeds 3", 2, "leave out --seeds"),
        ("bccd {} --protocol classification --seed 3", 2, "leave out --seed"),
        ("bccd {} --protocol classification --method zero-shot --train {}", 2, "leave out --train: zero-shot doesn't"),
        ("bccd {} --method reco --seed -1", 2, ">= 0"),
        ("bccd {} --seeds 0", 2, ">= 1"),
        ("bccd {} --protocol typographic-attack --seed 3 --set.seed 3", 2, "named twice"),
        ("image-text-retrieval {} --protocol nonsense", 2, "leave out --protocol: image-text-retrieval has no use"),
        ("image-text-retrieval {} --metric map11", 2, "leave out --metric: image-text-retrieval has no use"),
        ("image-text-retrieval {} --train {}", 2, "leave out --train: image-text-retrieval has no use"),
        ("image-text-retrieval {} --set.foo 3", 2, "leave out --set.foo: image-text-retrieval has no use"),
        ("image-text-retrieval {} --seed 3", 2, "leave out --seed"),
        ("--suite elevater-20 --data . --out o --train {}", 2, "--suite takes"),
        ("--suite elevater-20 --data . --out o --shots 4", 2, "--shots is for methods that learn"),
        ("--suite elevater-20 --data . --out o --seeds 4", 2, "nothing in this suite is trained or drawn"),
    ],
)
def test_one_line_for_what_can_not_be(run, model, boxed, line, status, said):
    shown = run(f"evaluate {model} {line.replace('{}', boxed)}")
    assert shown.status == status and said in shown.line


def test_the_seed_reaches_what_is_drawn_and_several_are_averaged(run, model, boxed):
    line = f"evaluate {model} 'RBC, WBC' {boxed} --protocol typographic-attack --json"
    named, set_by, other = (json.loads(run(line + own).out) for own in (" --seed 5", " --set.seed 5", ""))
    assert named["seed"] == set_by["seed"] == 5 and other["seed"] == 0
    assert named["metrics"] == set_by["metrics"]
    several = json.loads(run(line + " --seed 5 --seeds 2").out)
    singles = [named, json.loads(run(line + " --seed 6").out)]
    assert several["seeds"] == [5, 6] and several["seed"] == 5
    for name, value in several["metrics"].items():
        assert value == pytest.approx(np.mean([each["metrics"][name] for each in singles]))
    assert several["sd"] == pytest.approx(np.std([each["value"] for each in singles], ddof=1))
    assert several["interval"] == pytest.approx(np.mean([each["interval"] for each in singles], axis=0))


def test_a_segmenter_is_trained_by_each_seed(run, model, tmp_path, make_encoded):
    for name, rows in (("train", range(4)), ("val", range(4, 6))):
        masks = [png(np.tile([0, 1, 2], (32, 16))) for _ in rows]
        pq.write_table(
            pa.table({"image": [make_encoded(i) for i in rows], "mask": masks}), tmp_path / f"{name}.parquet"
        )
    line = f"evaluate {model} 'sky, road, tree' val.parquet --protocol segmentation --set.train train.parquet"
    line += " --set.size 32 --set.epochs 1 --json"
    shown = run(line + " --seed 1 --seeds 2")
    assert shown.status == 0, shown.err
    several, single = json.loads(shown.out), json.loads(run(line + " --seed 1").out)
    assert several["seeds"] == [1, 2] and several["sd"] is not None and several["options"]["epochs"] == 1
    assert single["seed"] == 1 and single["seeds"] == [] and single["sd"] is None
    assert several["metrics"]["zero-shot-miou"] == pytest.approx(single["metrics"]["zero-shot-miou"])


def test_a_memory_is_among_the_circumstances(run, model, memory, photos, tmp_path):
    images = [(photos / f"{number:02}.jpg").read_bytes() for number in range(6)]
    boxes = [[{"label": label, "x": 4.0, "y": 4.0, "w": 20.0, "h": 20.0}] for label in ("cat", "dog") * 3]
    columns = {"image": images, "boxes": boxes, "label": ["cat", "dog"] * 3, "mask": [png(np.zeros((32, 48)))] * 6}
    pq.write_table(pa.table(columns), tmp_path / "some.parquet")
    line = f"evaluate {model} 'cat, dog' some.parquet --memory mem --json"
    expected = json.loads(run(line).out)
    facts = ("memory", "memory_pairs", "excluded_near_duplicates", "near_threshold")
    assert [expected[name] for name in facts] == ["mem", 20, 6, 0.95]
    for protocol in (
        "regions", "regions --method mean-neighbours", "detection --set.limit 5", "segmentation", "typographic-attack",
        "video", "corrupted-neighbours --method mean-neighbours",
    ):  # fmt: skip
        shown = run(f"{line} --protocol {protocol}")
        assert shown.status == 0, shown.err
        result = json.loads(shown.out)
        assert [result[name] for name in facts] == [expected[name] for name in facts], protocol
    for protocol, method in (
        ("segmentation", "mean-neighbours"), ("regions --set.features dense", "mean-neighbours"),
        ("detection --set.features dense", "reco"), ("segmentation", "stacked-linear-features"),
        ("video --set.train some.parquet", "ra-clip"),
    ):  # fmt: skip
        shown = run(f"{line} --protocol {protocol} --method {method}")
        assert shown.status == 1 and f"which {method} can't change" in shown.line, (protocol, shown.err)
    columns = {
        "image": images,
        "clip": [str(i // 2) for i in range(6)],
        "label": ["cat", "cat", "dog", "dog", "cat", "cat"],
    }
    pq.write_table(pa.table(columns | {"frame": [0, 1] * 3}), tmp_path / "clips.parquet")
    clips = json.loads(run(f"{line.replace('some', 'clips')} --protocol video --set.frames 1").out)
    assert (clips["n"], clips["excluded_near_duplicates"]) == (3, 3)  # the frames that are looked at
    shown = run(f"{line} --protocol segmentation --method primed --set.train some.parquet")
    assert shown.status == 1 and "primed has no part in training" in shown.line


def test_video_files_with_a_memory(run, model, memory, tmp_path):
    av = pytest.importorskip("av")
    for label in ("cat", "dog"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        with av.open(str(tmp_path / "clips" / label / "0.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height = 64, 48
            for i in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    shown = run(f"evaluate {model} 'cat, dog' clips --protocol video --memory mem --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert (result["n"], result["memory_pairs"], result["excluded_near_duplicates"]) == (2, 20, 0)
