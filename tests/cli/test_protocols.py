"""`evaluate` by protocols: the task's own or one asked for, with options; one line for what can't be."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


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
    ],
)
def test_one_line_for_what_can_not_be(run, model, boxed, line, status, said):
    shown = run(f"evaluate {model} {line.replace('{}', boxed)}")
    assert shown.status == status and said in shown.line
