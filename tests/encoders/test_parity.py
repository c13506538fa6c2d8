"""Embeddings equal plain open_clip's, for every kind of architecture, in fp32 and within the bound in bf16."""

import io

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from retroclip.encoders import FIDELITY_BOUND, fidelity, load

from .conftest import CONFIGS, TEXTS, make_images, plain_open_clip

KINDS = sorted(CONFIGS)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def open_images(encoded):
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]


@torch.no_grad()
def reference(kind, directory, encoded):
    model, transform, tokenizer = plain_open_clip(kind, directory)
    pixels = torch.stack([transform(image) for image in open_images(encoded)])
    return normalize(model.encode_image(pixels), dim=-1), normalize(model.encode_text(tokenizer(TEXTS)), dim=-1)


def test_fp32_equals_open_clip(kind, model_directory, images):
    directory = model_directory(kind)
    encoder = load(directory, precision="fp32")
    expected_images, expected_texts = reference(kind, directory, images)
    torch.testing.assert_close(encoder.encode_images(images, batch_size=4), expected_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_texts(TEXTS, batch_size=2), expected_texts, atol=1e-5, rtol=0)


def test_the_models_under_test_tell_inputs_apart(kind, model_directory, images):
    encoder = load(model_directory(kind), precision="fp32")
    for rows in (encoder.encode_images(images), encoder.encode_texts(TEXTS)):
        cosines = rows @ rows.T - 2 * torch.eye(len(rows))
        assert cosines.max() < 0.98


def test_bf16_is_within_the_bound(kind, model_directory):
    images = make_images(24, seed=3)
    low, exact = (load(model_directory(kind), precision=p) for p in ("bf16", "fp32"))
    assert next(low.model.visual.parameters()).dtype == torch.bfloat16
    smallest = fidelity(low, exact, images, TEXTS)
    assert FIDELITY_BOUND <= smallest < 1 - 1e-7


def test_fidelity_is_the_worst_pair(model_directory, images):
    one, other = (
        load(model_directory("vit"), precision="fp32"),
        load(model_directory("vit-quickgelu"), precision="fp32"),
    )
    pairs = [
        (one.encode_images(images), other.encode_images(images)),
        (one.encode_texts(TEXTS), other.encode_texts(TEXTS)),
    ]
    cosines = [float(a[i] @ b[i]) for a, b in pairs for i in range(len(a))]
    assert fidelity(one, other, images, TEXTS) == pytest.approx(min(cosines), abs=1e-6)


def test_scalars_and_batch_norms_are_never_rounded(model_directory):
    encoder = load(model_directory("resnet"), precision="bf16")
    assert encoder.model.logit_scale.dtype == torch.float32
    assert encoder.model.visual.bn1.running_var.dtype == torch.float32
    assert encoder.logit_scale == load(model_directory("resnet"), precision="fp32").logit_scale
