"""RoI classification: boxes checked, cut out, classified; every wrong box counted or refused."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import retroclip
from retroclip.encoders.regions import cut, encode_cuts
from retroclip.errors import RetroclipError, SourceError, TaskError
from retroclip.evaluation.boxes import check_box, load_boxes
from retroclip.evaluation.protocols import list_protocols, run_protocol
from retroclip.evaluation.regions import scored_boxes
from retroclip.pairs import decode_image
from retroclip.tasks import Task

TASK = Task("colours", classes=["red", "green", "blue"], ignored=["grey"])
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


class ColourEncoder:
    """The embedding of an image is its mean colour; of a text, the colour it names."""

    name, dim, logit_scale, precision, fingerprint = "colours", 3, 20.0, "fp32", "colours"

    def encode_images(self, images, **_):
        means = [np.asarray(decode_image(image), dtype=float).mean((0, 1)) + 1 for image in images]
        return torch.nn.functional.normalize(torch.tensor(np.array(means).reshape(-1, 3), dtype=torch.float32), dim=-1)

    def encode_texts(self, texts, **_):
        rows = [next(COLOURS[name] for name in COLOURS if name in text) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def picture(boxes, size=(40, 30)):
    image = Image.new("RGB", size, "white")
    for label, x, y, w, h in boxes:
        if w > 0 and h > 0:
            image.paste(COLOURS[label], (int(x), int(y), int(x + w), int(y + h)))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write(path, images, boxes):
    rows = [[dict(zip(("label", "x", "y", "w", "h"), box, strict=True)) for box in own] for own in boxes]
    pq.write_table(pa.table({"image": images, "boxes": rows, "split": ["val"] * len(images)}), path)
    return str(path)


@pytest.fixture
def boxed(tmp_path):
    boxes = [
        [("red", 2.0, 3.0, 8.0, 8.0), ("green", 20.0, 10.0, 10.0, 12.0)],
        [("blue", 0.0, 0.0, 20.0, 20.0), ("grey", 25.0, 5.0, 5.0, 5.0)],
        [("red", 10.0, 10.0, 5.0, 5.0)],
    ]
    return write(tmp_path / "boxes.parquet", [picture(own) for own in boxes], boxes)


def test_coloured_boxes_are_all_right(boxed):
    result = run_protocol("regions", ColourEncoder(), TASK, f"{boxed}#val")
    assert (result.value, result.top1, result.metrics["ap50"]) == (1.0, 1.0, 1.0)
    assert result.interval == (1.0, 1.0) and result.baselines["top1"] == 0.5
    assert result.options["ignored"] == 1 and result.n == 3 and result.per_class["red"] == 1.0
    assert retroclip.Result.model_validate_json(result.model_dump_json()).protocol == "regions"


def test_every_box_of_a_crowded_image_counts(tmp_path):
    crowd = [("red", float(x), float(y), 5.0, 4.0) for x in range(0, 120, 8) for y in range(0, 80, 8)]
    assert len(crowd) == 150
    source = write(tmp_path / "crowded.parquet", [picture(crowd, size=(128, 96))], [crowd])
    result = run_protocol("regions", ColourEncoder(), TASK, source)
    assert (result.value, result.interval, result.options["boxes"]) == (1.0, (1.0, 1.0), 150)


def test_wrong_boxes_are_counted_or_refused(tmp_path, boxed):
    images = [picture([("red", 1, 1, 9, 9)]) for _ in range(12)]
    good = [[("red", 1.0, 1.0, 9.0, 9.0)] for _ in range(12)]
    good[0].append(("red", 5.0, 5.0, 0.0, 0.0))
    good[1].append(("red", 100.0, 5.0, 5.0, 5.0))
    good[2].append(("red", 30.0, 5.0, 20.0, 5.0))
    data = load_boxes(TASK, write(tmp_path / "some.parquet", images, good))
    assert [reason.split(": ")[1] for reason in data.rejected] == [
        "a box of no area (0 x 0)", "a box outside the image of 40 x 30 pixels",
    ]  # fmt: skip
    assert data.clipped == 1 and data.boxes[-10].tolist() == [30, 5, 10, 5]
    bad = write(tmp_path / "bad.parquet", images[:3], [[("red", 1.0, 1.0, -1.0, 2.0)]] * 3)
    with pytest.raises(SourceError, match="3 boxes or images can't be used"):
        load_boxes(TASK, bad)
    with pytest.raises(SourceError, match="no box"):
        load_boxes(TASK, write(tmp_path / "none.parquet", images[:3], [[]] * 3))
    with pytest.raises(TaskError, match=r"'green'.*lacks"):
        load_boxes(Task("two", classes=["red", "blue"], ignored=["grey"]), boxed)
    with pytest.raises(SourceError, match="can't be used"):
        load_boxes(TASK, write(tmp_path / "c.parquet", [*images[:2], b"x"], good[:3]))


@pytest.mark.parametrize(
    ("box", "problem"),
    [(("a", 0, 0, float("nan"), 1), "finite"), (("a", 1, 2, 3), "isn't"), (("a", 0, -5, 3, 5), "outside")],
)
def test_check_box(box, problem):
    assert problem in check_box(box, 10, 10)
    assert check_box(("a", -0.4, 0, 5, 5), 10, 10) == ((0, 0, 4.6, 5), False)


def test_options_are_checked(boxed):
    with pytest.raises(RetroclipError, match="no option 'contxt'; it has: context"):
        run_protocol("regions", ColourEncoder(), TASK, boxed, options={"contxt": 2})
    with pytest.raises(RetroclipError, match="option context"):
        run_protocol("regions", ColourEncoder(), TASK, boxed, options={"context": "wide"})
    with pytest.raises(RetroclipError, match="factor"):
        run_protocol("regions", ColourEncoder(), TASK, boxed, options={"context": 0})
    with pytest.raises(RetroclipError, match="choose from"):
        run_protocol("depth", ColourEncoder(), TASK, boxed)
    assert "regions" in list_protocols()


def test_cuts_stay_inside_and_grow_about_the_middle():
    image = Image.new("RGB", (20, 10))
    assert cut(image, (2, 2, 4, 4)).size == (4, 4)
    assert cut(image, (2, 2, 4, 4), 2.0).size == (8, 8)
    assert cut(image, (19.6, 9.7, 0.2, 0.2)).size == (1, 1)
    assert encode_cuts(ColourEncoder(), []).shape == (0, 3)


def test_classes_that_nobody_looked_for_are_left_out(boxed):
    data = load_boxes(TASK, boxed)
    scores = np.random.default_rng(0).random((4, 3))
    every = scored_boxes(data, ~data.crowd, lambda rows: scores[rows])
    assert len(every) == 12 and every.scores.tolist() == scores.ravel().tolist()
    assert every.label.tolist() == [0, 1, 2] * 4 and every.image.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    np.testing.assert_array_equal(every.box, np.repeat(data.boxes, 3, axis=0))
    data.verified, data.not_exhaustive = {0: {0, 1}, 2: {0, 2}}, {0: {0}, 2: {2}}
    kept = scored_boxes(data, ~data.crowd, lambda rows: scores[rows])
    found = sorted(zip(kept.image.tolist(), kept.box[:, 0].tolist(), kept.label.tolist(), strict=True))
    first = [(0, 2.0, 0), (0, 2.0, 1), (0, 20.0, 0), (0, 20.0, 1)]
    assert found == [*first, (1, 0.0, 0), (1, 0.0, 1), (1, 0.0, 2), (2, 10.0, 0), (2, 10.0, 2)]
    # Red (0) of the first image and blue (2) of the third weren't searched to the end: a crowd as large as the image.
    rest = data.truth.select(np.flatnonzero(data.truth.crowd))
    assert (rest.image.tolist(), rest.label.tolist()) == ([0, 2], [0, 2])
    assert rest.box.tolist() == [[0, 0, 40, 30]] * 2 and len(data.truth) == len(data.labels) + 2
