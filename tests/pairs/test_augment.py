"""Training transforms."""

import pytest
import torch
from timm.data import create_transform

from retroclip.pairs.augment import RAND_AUGMENT, rand_augment, training_transform

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def test_shape_type_and_seed(make_image):
    transform = training_transform((32, 40), MEAN, STD)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        _seed_timm(seed)
        outputs.append(transform(make_image(0, (90, 60))))
    assert all(output.shape == (3, 32, 40) and output.dtype == torch.float32 for output in outputs)
    assert type(outputs[0]) is torch.Tensor
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def _seed_timm(seed):
    """timm's RandAugment draws from random and NumPy."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_without_randomness_it_only_resizes_and_normalises(make_image, interpolation):
    options = {"scale": (1.0, 1.0), "flip": 0, "policy": None, "erasing": 0}
    transform = training_transform(24, MEAN, STD, interpolation, **options)
    image = make_image(1, (24, 24))
    flat = torch.tensor(list(image.getdata()), dtype=torch.float64).reshape(24, 24, 3) / 255
    expected = (flat - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(STD, dtype=torch.float64)
    outputs = [transform(image) for _ in range(20)]
    # the crop's random aspect ratio falls back to the whole image when no crop of that area fits
    assert any(torch.allclose(output.double().permute(1, 2, 0), expected, atol=1e-5) for output in outputs)


def test_erasing_and_flip_do_something(make_image):
    plain = {"scale": (1.0, 1.0), "policy": None}
    image = make_image(2, (24, 24))
    torch.manual_seed(0)
    still = training_transform(24, MEAN, STD, flip=0, erasing=0, **plain)(image)
    torch.manual_seed(0)
    flipped = training_transform(24, MEAN, STD, flip=1.0, erasing=0, **plain)(image)
    torch.manual_seed(0)
    erased = training_transform(24, MEAN, STD, flip=0, erasing=1.0, **plain)(image)
    assert torch.allclose(flipped, still.flip(-1), atol=1e-5)
    assert not torch.allclose(erased, still)


def test_the_steps_are_those_of_timm_for_the_authors_settings():
    """REACT's own command (react_customization/README.md), through the `create_transform` that its code calls."""
    given = {"scale": (0.08, 1.0), "ratio": (0.75, 1.3333333), "hflip": 0.5, "interpolation": "bicubic"}
    given |= {"color_jitter": 0.4, "auto_augment": RAND_AUGMENT, "re_prob": 0.25, "re_count": 1, "re_mode": "pixel"}
    theirs = create_transform((3, 32, 32), is_training=True, mean=MEAN, std=STD, **given).transforms
    ours = training_transform(32, MEAN, STD).transforms
    crop, flip, augment, *_, erase = theirs
    assert [type(step).__name__ for step in theirs] == [
        "RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "RandAugment", "MaybeToTensor", "Normalize",
        "RandomErasing",
    ]  # fmt: skip
    assert not any("ColorJitter" in type(step).__name__ for step in ours)
    assert ours[0].scale == crop.scale and ours[0].ratio == pytest.approx(crop.ratio)
    assert ours[1].p == flip.p and ours[-2].p == erase.probability
    assert [(op.name, op.magnitude, op.hparams) for op in ours[2].ops] == [
        (op.name, op.magnitude, op.hparams) for op in augment.ops
    ]


def test_rand_augment_never_posterises_to_nothing(make_image):
    augment = rand_augment("rand-m10-n1-mstd0.5-inc1", 32, MEAN)
    posterise = next(op for op in augment.ops if op.name == "PosterizeIncreasing")
    posterise.prob = 1.0
    image = posterise(make_image(0, (32, 32)))
    assert set(image.tobytes()) <= {0, 128}
