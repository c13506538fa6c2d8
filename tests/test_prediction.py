"""Predictions for image files: in order, with few whole photos in memory at any time."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from retroclip import prediction
from retroclip.prediction import predict_files


@pytest.fixture
def classifier():
    """Two classes by the mean of an image shrunk to 2 x 2; `batches` are the shapes of what it was given."""
    from torchvision.transforms.functional import pil_to_tensor

    def predict_images(pixels):
        made.batches.append(tuple(pixels.shape))
        share = pixels.float().mean((1, 2, 3)) / 255
        return torch.stack([share, 1 - share], dim=1)

    encoder = SimpleNamespace(preprocess=lambda image: pil_to_tensor(image.resize((2, 2))))
    made = SimpleNamespace(classes=["light", "dark"], encoder=encoder, predict_images=predict_images, batches=[])
    return made


def test_whole_photos_are_gone_before_a_batch_is_classified(classifier, tmp_path, make_encoded, monkeypatch):
    files = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, file in enumerate(files):
        file.write_bytes(make_encoded(number) if number != 2 else b"not a picture")
    photos, alive = [], []
    decode, classify = prediction.decode_image, classifier.predict_images

    def decode_image(file):
        photo = decode(file)
        photos.append(weakref.ref(photo))
        return photo

    def predict_images(pixels):
        gc.collect()
        alive.append(sum(photo() is not None for photo in photos))
        return classify(pixels)

    monkeypatch.setattr(prediction, "decode_image", decode_image)
    classifier.predict_images = predict_images
    predictions = list(predict_files(classifier, files, batch_size=4))
    assert alive == [0, 0]
    assert classifier.batches == [(3, 3, 2, 2), (3, 3, 2, 2)]
    assert [item.file for item in predictions] == files
    assert [item.error is not None for item in predictions] == [number == 2 for number in range(7)]
    alone = [next(predict_files(classifier, [file])) for file in files]
    assert alone == predictions
