import numpy as np
import pytest
import torch
from PIL import Image

from retroclip.errors import BadImageError
from retroclip.training import views
from retroclip.training.views import NewViews, View, augmented, cache_views


def test_view_nought_is_the_image_and_others_are_drawn_once_for_all(make_pairs):
    images = [pair.image for pair in make_pairs(2)]
    assert View(images, 0)[3] is images[3]
    first, again = View(images, 1)[3], View(images, 1)[3]
    assert np.array_equal(np.asarray(first), np.asarray(again))
    others = [View(images, 2)[3], View(images, 1, seed=9)[3]]
    assert not any(np.array_equal(np.asarray(first), np.asarray(other)) for other in others)


def test_an_augmented_image_is_square_and_holds_the_share_asked_for():
    half = Image.new("RGB", (80, 80), (0, 0, 0))
    half.paste((200, 200, 200), (40, 0, 80, 80))
    for seed in range(20):
        view = augmented(half, np.random.default_rng(seed), scale=(0.9, 1.0))
        bright = (np.asarray(view).mean(axis=2) > 50).mean()
        assert view.width == view.height and 0.35 < bright < 0.65
    assert augmented(Image.new("RGB", (1, 300)), np.random.default_rng(0)).size[0] >= 1


def test_every_stage_gives_the_embedding_in_the_end(encoder, make_pairs):
    images = [pair.image for pair in make_pairs(2)]
    pixels = cache_views(encoder, images, stage="pixels")[0]
    embedded = cache_views(encoder, images, stage="embedding")[0]
    torch.testing.assert_close(encoder.encode_images(pixels.float()), embedded.float(), atol=3e-3, rtol=0)
    assert pixels.shape == (6, 3, 32, 32) and embedded.dtype == torch.float16


def test_a_large_cache_lies_in_a_file_and_holds_the_same(encoder, make_pairs, monkeypatch):
    images = [pair.image for pair in make_pairs(2)]
    small = cache_views(encoder, images, stage="tokens", start=1, views=1)
    monkeypatch.setattr(views, "IN_MEMORY", 0)
    torch.testing.assert_close(cache_views(encoder, images, stage="tokens", start=1, views=1), small)


def test_views_of_react_are_drawn_by_seed_number_and_image_alone(encoder, make_pairs):
    images = [pair.image for pair in make_pairs(2)]
    torch.manual_seed(1)
    found = cache_views(encoder, images, stage="pixels", views=2, augmentation="react", seed=5)
    drawn = torch.rand(())
    again = cache_views(encoder, images[:4], stage="pixels", views=2, augmentation="react", seed=5)
    torch.manual_seed(1)
    assert torch.equal(found[:, :4], again) and torch.rand(()) == drawn  # the global generators are left as found
    assert torch.equal(found[0], cache_views(encoder, images, stage="pixels")[0])
    other = cache_views(encoder, images, stage="pixels", views=1, augmentation="react", seed=6)[1]
    unlike = [(a - b).abs().mean() for a, b in [(found[1], found[2]), (found[1], other), (found[1], found[0])]]
    assert min(unlike) > 0.1
    mean, std = (torch.tensor(encoder.preprocess_cfg[name])[:, None, None] for name in ("mean", "std"))
    plain = (found[0].float() * std + mean).mean((2, 3))  # squares of one colour, red, green and blue in turn
    assert plain.argmax(dim=1).tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize("augmentation", ["mild", "react"])
def test_new_views_are_those_that_a_cache_would_hold_for_that_epoch(augmentation, encoder, make_pairs):
    images = [pair.image for pair in make_pairs(2)]
    cached = cache_views(encoder, images, stage="tokens", start=1, views=2, augmentation=augmentation, seed=5)
    made, rows = NewViews(encoder, images, "tokens", 1, 5, augmentation), torch.tensor([4, 0, 5])
    for epoch in range(2):
        torch.testing.assert_close(made.at(epoch, rows), cached[epoch + 1, rows].float(), atol=3e-3, rtol=1e-3)
    assert not torch.equal(made.at(0, rows), made.at(1, rows))


def test_an_image_that_cannot_be_decoded_is_named(encoder, make_pairs):
    images = [make_pairs(1)[0].image, b"not an image"]
    with pytest.raises(BadImageError, match="image 1"):
        cache_views(encoder, images, stage="embedding")
