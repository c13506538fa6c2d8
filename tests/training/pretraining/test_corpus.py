import numpy as np
import pytest
import torch
from PIL import Image

from retroclip.errors import RetroclipError
from retroclip.training.pretraining.corpus import Corpus, Order, square
from retroclip.training.pretraining.recipe import Source


def test_square_is_the_centre():
    image = Image.new("RGB", (30, 10))
    image.paste((255, 0, 0), (10, 0, 20, 10))
    pixels = square(image, 10)
    assert pixels.shape == (3, 10, 10) and pixels.dtype == np.uint8
    assert (pixels[0] == 255).all() and (pixels[1:] == 0).all()


def test_every_pass_shows_every_row_once_and_the_next_in_another_order():
    order = Order(10, 4, seed=3)
    seen = np.concatenate([order.rows(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert list(Order(10, 4, seed=3).rows(3)) == list(order.rows(3))
    assert list(Order(10, 4, seed=4).rows(0)) != list(order.rows(0))


def test_a_share_larger_than_the_source_repeats_rows():
    rows = Order(3, 7, seed=0).rows(0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2] and len(rows) == 7


def test_images_are_decoded_once(squares, tmp_path, monkeypatch):
    source = Source(name="captioned", file="captioned.parquet", share=2, holdout=4)
    said = []
    first = Corpus(source, squares, tmp_path, 8).build(said.append)
    again = Corpus(source, squares, tmp_path, 8).build(said.append)
    assert said == ["captioned: decoding"]
    assert len(first) == len(again) == 20 and first.pixels.shape == (24, 3, 8, 8)
    assert first.rows[1]["captions"] == ["a photo of a green.", "the green square"]
    green = first.take(np.array([1])).float().mean((0, 2, 3))
    assert int(green.argmax()) == 1 and torch.equal(again.take(np.array([1])), first.take(np.array([1])))


def test_a_source_without_what_is_asked_for_is_an_error(squares, tmp_path):
    source = Source(name="labelled", file="labelled.parquet", share=2, text="captions")
    with pytest.raises(RetroclipError, match="no image with captions"):
        Corpus(source, squares, tmp_path, 8).build(lambda line: None)
    assert not list(tmp_path.glob("*.npy"))
