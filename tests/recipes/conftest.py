"""The recipes as modules, and small sets for what they measure."""

import importlib
import io
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retroclip.tasks import Task

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def memories():
    sys.path.insert(0, str(RECIPES))
    yield importlib.import_module("memories")
    sys.path.remove(str(RECIPES))


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_encoded, memories):
    """All sets that conditions draw from, a dozen or two photos each."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("flickr8k", "tiny_imagenet", "imagenet1k_samples", "flower_photos", "intel_scenes")):
        rows, labelled = range(24 if number < 2 else 20 if number == 3 else 9), number > 0
        labels = [Task.load("flower-photos").classes[row % 5] if number == 3 else f"thing {row}" for row in rows]
        captions = [[f"two dogs and {row} cats", f"{row} cats"] for row in rows]
        columns = {
            "key": [f"{name}/{row}" for row in rows],
            "image": [make_encoded(1000 * number + row) for row in rows],
            "label": labels if labelled else [None] * len(rows),
            "captions": [None] * len(rows) if labelled else captions,
            "split": ["val" if number == 3 and row >= 9 else "train" for row in rows],
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def leaking(data, tmp_path):
    """The sets with two evaluated flowers among those to learn from: one as it is, another one compressed anew."""
    whole = pq.read_table(data / "flower_photos.parquet").to_pylist()
    for column, row in ((9, 0), (10, 1)):
        again = io.BytesIO()
        Image.open(io.BytesIO(whole[column]["image"])).save(again, "JPEG", quality=60)
        whole[row]["image"] = whole[column]["image"] if row == 0 else again.getvalue()
    own = shutil.copytree(data, tmp_path / "data")
    pq.write_table(pa.Table.from_pylist(whole), own / "flower_photos.parquet")
    return own
