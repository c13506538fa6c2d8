import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from retroclip.training.pretraining.views import coarsened, cropped, crops, jittered, rand_augmented


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 2**31))
def test_crops_lie_inside_and_have_the_asked_area(a, b, seed):
    low, high = sorted((a, b))
    left, top, side = crops(50, (low, high), np.random.default_rng(seed)).T
    assert (left >= 0).all() and (top >= 0).all()
    assert (left + side <= 1 + 1e-9).all() and (top + side <= 1 + 1e-9).all()
    assert (side**2 >= low - 1e-9).all() and (side**2 <= high + 1e-9).all()


def test_the_whole_square_is_the_image_itself_and_its_mirror():
    pixels = torch.rand(2, 3, 12, 12)
    whole = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    views = cropped(pixels, whole, torch.tensor([False, True]), 12)
    torch.testing.assert_close(views[0], pixels[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views[1], pixels[1].flip(-1), atol=1e-5, rtol=1e-5)


def test_a_crop_is_the_slice_of_that_square():
    pixels = torch.rand(1, 3, 16, 16)
    view = cropped(pixels, torch.tensor([[0.25, 0.5, 0.5]]), torch.tensor([False]), 8)
    torch.testing.assert_close(view[0], pixels[0, :, 8:16, 4:12], atol=1e-5, rtol=1e-5)


def test_shrinking_averages():
    pixels = torch.rand(1, 3, 16, 16)
    view = cropped(pixels, torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([False]), 4)
    torch.testing.assert_close(view, F.avg_pool2d(pixels, 4), atol=1e-5, rtol=1e-5)


def test_jitter_is_brightness_contrast_and_saturation_written_out():
    pixels = 0.3 + 0.2 * torch.rand(3, 3, 4, 4)
    factors = torch.tensor([[1.0, 1.0, 1.0], [1.2, 0.9, 0.5], [0.8, 1.1, 1.3]])
    views = jittered(pixels, factors)
    torch.testing.assert_close(views[0], pixels[0])
    for image, view, (b, c, s) in zip(pixels, views, factors, strict=True):
        expected = image * b
        expected = expected.mean() + c * (expected - expected.mean())
        grey = expected.mean(0)
        torch.testing.assert_close(view, grey + s * (expected - grey))


def test_coarse_views_lose_detail_and_others_nothing():
    pixels = torch.rand(2, 3, 16, 16)
    views = coarsened(pixels, torch.tensor([True, False]))
    assert torch.equal(views[1], pixels[1])
    small = F.avg_pool2d(pixels[:1], 2)
    assert (F.avg_pool2d(views[:1], 2) - small).abs().mean() < 0.1 < (views[0] - pixels[0]).abs().mean()
    assert float(views.min()) >= 0 and float(views.max()) <= 1


def test_rand_augment_is_a_function_of_its_seed_and_leaves_the_generators_alone():
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, again, other = (
        rand_augmented(pixels, "rand-m9-mstd0.5-inc1", seeds) for seeds in ((1, 2, 3, 4), (1, 2, 3, 4), (5, 6, 3, 4))
    )
    assert random.random() == expected
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[2:], other[2:])
    assert first.shape == pixels.shape and first.dtype == torch.uint8


@pytest.mark.parametrize("factor", [2, 4])
def test_coarse_of_a_constant_is_the_constant(factor):
    pixels = torch.full((1, 3, 16, 16), 0.4)
    torch.testing.assert_close(coarsened(pixels, torch.tensor([True]), factor), pixels)
