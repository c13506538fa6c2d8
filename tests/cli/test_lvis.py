"""A small LVIS json through the command line, as a task of its own and in a suite."""

import json

import pytest


@pytest.fixture
def lvis(tmp_path, make_encoded):
    """Four images of three classes; nobody looked for the third in the first two images."""
    folder = tmp_path / "data" / "lvis"
    (folder / "val2017").mkdir(parents=True)
    names = ["aerosol_can", "air_conditioner", "alarm_clock"]
    images, annotations = [], []
    for number in range(4):
        name = f"{number:012}.jpg"
        (folder / "val2017" / name).write_bytes(make_encoded(number))
        found = [0, 1] if number < 2 else [2]
        images.append(
            {
                "id": number, "width": 48, "height": 32, "coco_url": f"http://images.cocodataset.org/val2017/{name}",
                "neg_category_ids": [] if number < 2 else [1], "not_exhaustive_category_ids": [],
            }
        )  # fmt: skip
        annotations += [
            {"id": 10 * number + c, "image_id": number, "category_id": c + 1, "bbox": [2 + 9 * c, 3, 12, 14]}
            for c in found
        ]
    categories = [{"id": i + 1, "name": name, "frequency": "rcf"[i]} for i, name in enumerate(names)]
    record = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "lvis_v1_val.json").write_text(json.dumps(record))
    return "data/lvis/lvis_v1_val.json"


def test_regions_of_a_users_own_lvis(run, model, lvis):
    shown = run(f"evaluate {model} lvis {lvis} --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert (result["task"], result["protocol"], result["metric"], result["n"]) == ("lvis", "regions", "ap", 4)
    assert result["options"]["boxes"] == 6 and set(result["per_class"]) == {
        "aerosol can", "air conditioner", "alarm clock"
    }  # fmt: skip
    # The third class has no wrong answer to make: where it was looked for, all boxes are of it.
    assert result["per_class"]["alarm clock"] == 1.0
    again = json.loads(run(f"evaluate {model} {lvis} {lvis} --protocol regions --json").out)
    assert again["per_class"] == result["per_class"]


def test_detection_on_a_users_own_lvis(run, model, lvis):
    shown = run(f"evaluate {model} lvis {lvis} --protocol detection --set.proposals truth --json")
    assert shown.status == 0, shown.err
    result = json.loads(shown.out)
    assert (result["protocol"], result["metric"], result["n"]) == ("detection", "ap50", 4)
    # As with regions: where the third class was looked for, all boxes are of it; other images don't count.
    assert result["per_class"]["alarm clock"] == 1.0 and set(result["metrics"]) >= {"ap50", "ap50-novel"}
    assert result["options"]["detections"] == 2 * 2 * 2 + 2 * 1 * 2  # images, boxes, classes that were looked for


def test_lvis_in_the_suite_of_ra_clip(run, model, lvis):
    shown = run(f"evaluate {model} --suite ra-clip --data data --out results --json")
    assert shown.status == 0 and "and left out: imagenet" in shown.err
    (result,) = json.loads(shown.out)
    assert (result["task"], result["n"]) == ("lvis", 4)


def test_lvis_without_its_json_is_one_line(run, model, lvis):
    shown = run(f"evaluate {model} lvis data/lvis/val2017")
    assert shown.status == 1 and "can't read class names from" in shown.line
