"""A text drawn on images: it is there, and a reader of texts is fooled by it."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from retroclip.errors import RetroclipError, TaskError
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.typographic import write_on
from retroclip.pairs import LabelledSet, decode_image
from retroclip.tasks import Task

from .test_regions import ColourEncoder, picture


@pytest.mark.parametrize("place", [(0.5, 0.5), (0, 0), (1, 1)])
@pytest.mark.parametrize("text", ["dog", "a very long name of a class that does not fit"])
def test_the_label_stays_inside_and_the_rest_unchanged(place, text):
    image = Image.new("RGB", (120, 80), "green")
    drawn = write_on(image, text, place=place)
    left, top, right, bottom = ImageChops.difference(image, drawn).getbbox()
    assert drawn.size == image.size and right - left > 15 and bottom - top < 40
    colours = {colour for _, colour in drawn.getcolors(10000)}
    assert (255, 255, 255) in colours and (0, 128, 0) in colours
    if place == (0.5, 0.5):
        assert abs((left + right) / 2 - 60) < 4 and abs((top + bottom) / 2 - 40) < 4


class Reader(ColourEncoder):
    """Sees a white label as the class `green`, whatever it says."""

    def encode_images(self, images, **_):
        rows = super().encode_images(images)
        labelled = [(np.asarray(decode_image(image)).min(axis=2) > 250).mean() > 0.02 for image in images]
        rows[torch.tensor(labelled)] = torch.tensor([0.0, 1.0, 0.0])
        return rows


def test_accuracies_and_success_rate():
    colours = ["red", "green", "blue"] * 8
    images = [picture([(name, 0, 0, 40, 30)]) for name in colours]
    data = LabelledSet("colours", "val", [str(i) for i in range(24)], images, colours)
    task = Task("colours", classes=["red", "green", "blue"])
    result = run_protocol("typographic-attack", Reader(), task, data, options={"height": 0.3})
    assert result.metrics["clean-top1"] == 1 and result.value == pytest.approx(1 / 3)
    assert result.metrics["success-rate"] == result.metrics["written-class"]
    assert 0 < result.metrics["success-rate"] < 2 / 3 and result.metrics["written-class-clean"] == 0
    assert result.baselines["written-class"] == pytest.approx(1 / 3)
    again = run_protocol("typographic-attack", Reader(), task, data, options={"height": 0.3, "seed": 1})
    assert again.metrics["success-rate"] != result.metrics["success-rate"]
    with pytest.raises(RetroclipError, match="share"):
        run_protocol("typographic-attack", Reader(), task, data, options={"height": 0})
    with pytest.raises(TaskError, match="one class"):
        run_protocol("typographic-attack", Reader(), Task("one", classes=["red"]), data)
