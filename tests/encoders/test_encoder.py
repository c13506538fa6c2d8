"""Images in, unit-norm float32 rows out, in order, whatever they come as; and no silent nonsense."""

import io

import pytest
import torch
from PIL import Image

from retroclip.encoders import load
from retroclip.encoders.hybrid import ConvFeatures
from retroclip.encoders.images import Preprocessing, image_batches
from retroclip.encoders.precision import choose_precision, has_fast_bf16
from retroclip.errors import BadImageError, ModelError

from .conftest import make_images


@pytest.fixture(scope="module")
def encoder(fresh):
    return fresh("vit")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_unit_float32(precision, model_directory, images):
    encoder = load(model_directory("vit"), precision=precision)
    for rows in (encoder.encode_images(images), encoder.encode_texts(["a dog", "a cat"])):
        assert rows.dtype == torch.float32
        assert not rows.requires_grad
        assert not rows.is_inference()
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-6, rtol=0)


def test_every_form_of_an_image_gives_the_same(encoder, images, tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(len(images))]
    for path, data in zip(paths, images, strict=True):
        path.write_bytes(data)
    opened = [Image.open(io.BytesIO(data)) for data in images]
    pixels = torch.stack([encoder.preprocess(image.convert("RGB")) for image in opened])
    expected = encoder.encode_images(images)
    for given in (paths, opened, pixels, [images[0], paths[1], *opened[2:]]):
        assert torch.equal(encoder.encode_images(given), expected)


def test_order_and_batches(encoder):
    images = make_images(23, seed=5)
    whole = encoder.encode_images(images, batch_size=64)
    for batch_size in (1, 7):
        torch.testing.assert_close(encoder.encode_images(images, batch_size=batch_size), whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "resnet", "siglip"])
def test_split_preprocessing_gives_the_transforms_own_floats(kind, fresh, images):
    transform = fresh(kind).preprocess
    assert Preprocessing(transform).splits
    expected = torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])
    for ahead in (0, 1, 5):
        assert torch.equal(torch.cat(list(image_batches(images, transform, 4, ahead=ahead))), expected)


def test_any_other_transform_is_called_as_it_is(images):
    batches = list(image_batches(images, lambda image: torch.tensor([image.size[0]]), 4))
    assert torch.cat(batches).flatten().tolist() == [90 + 17 * i for i in range(len(images))]


def test_a_bad_image_is_named_by_its_position(encoder, images):
    with pytest.raises(BadImageError, match="image 2"):
        encoder.encode_images([*images[:2], images[2][:100], *images[3:]])


def test_no_images(encoder):
    assert encoder.encode_images([]).shape == (0, 32)
    assert encoder.encode_images(torch.zeros(0, 3, 32, 32)).shape == (0, 32)


def test_progress_changes_nothing(encoder, images):
    assert torch.equal(encoder.encode_images(images, progress=True), encoder.encode_images(images))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_embeddings_that_arent_finite_are_an_error_naming_the_model(value, fresh, images):
    encoder = fresh("vit")
    encoder.model.visual.proj.data.fill_(value)
    with pytest.raises(ModelError, match="vit gave image embeddings"):
        encoder.encode_images(images)
    encoder.model.text_projection.data.fill_(value)
    with pytest.raises(ModelError, match="vit gave text embeddings"):
        encoder.encode_texts(["a dog"])


def test_a_model_in_training_is_evaluated_and_left_in_training(fresh, images):
    encoder = fresh("resnet")
    expected = encoder.encode_images(images)
    encoder.model.train()
    assert torch.equal(encoder.encode_images(images), expected)
    assert encoder.model.training


def test_precision_policy(monkeypatch):
    cpu = torch.device("cpu")
    for fast, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("retroclip.encoders.precision._bf16_wins_on_cpu", lambda fast=fast: fast)
        assert choose_precision("auto", cpu) == expected
        assert choose_precision("fp32", cpu) == "fp32"
        assert choose_precision("auto", cpu, torch.nn.Linear(2, 2)) == expected
        assert choose_precision("auto", cpu, ConvFeatures()) == "fp32"
        assert choose_precision("bf16", cpu, ConvFeatures()) == "bf16"
    assert not has_fast_bf16(torch.device("mps"))
    with pytest.raises(ModelError, match="unknown precision"):
        choose_precision("fp8", cpu)
