"""Predictions for image files: in order, with few whole photos in memory at any time."""

import gc
import io
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from retroclip import prediction
from retroclip.classifiers import Classifier
from retroclip.errors import ModelError, SourceError
from retroclip.evaluation import Samples
from retroclip.prediction import calibrate, predict_files


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


@pytest.fixture
def labelled(make_encoded):
    """200 labelled shades; the answer of `classifier` is right for three quarters of them."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for number in range(200):
        shade = rng.integers(256)
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (int(shade),) * 3).save(buffer, "PNG")
        images.append(buffer.getvalue())
        labels.append(int((shade < 128) ^ (number % 4 == 0)))
    return Samples("shades", "train", [str(i) for i in range(200)], images, np.array(labels), ["light", "dark"])


class Shades(Classifier):
    """Far too sure: logits of ±20 by the mean of an image."""

    def __call__(self, embeddings):
        return 20 * torch.stack([embeddings[:, 0], -embeddings[:, 0]], dim=1)


def test_calibration_makes_probabilities_shares(labelled):
    def encode_images(images, **options):
        return torch.tensor([[np.asarray(Image.open(io.BytesIO(data))).mean() / 127.5 - 1] for data in images])

    encoder = SimpleNamespace(encode_images=encode_images)
    fitted, found = calibrate(Shades("shades", encoder, ["light", "dark"]), labelled, max_error=0.2)
    assert found.temperature > 5 and found.n == 200 and found.accuracy == pytest.approx(0.75, abs=0.02)
    assert found.error_after < found.error_before
    rows = fitted(encode_images(labelled.images)).softmax(1).max(1)
    kept = rows.values >= found.threshold
    assert float(kept.float().mean()) == pytest.approx(found.answered, abs=0.05)
    few = Samples("shades", None, ["a"], labelled.images[:1], labelled.labels[:1], labelled.classes)
    with pytest.raises(SourceError, match="shades has 1 images: calibration needs 20 and more"):
        calibrate(fitted, few)


def test_a_score_that_is_no_number_is_refused(classifier, tmp_path, make_encoded):
    (tmp_path / "a.jpg").write_bytes(make_encoded(0))
    classifier.predict_images = lambda pixels: torch.full((len(pixels), 2), float("nan"))
    with pytest.raises(ModelError, match=r"no finite score for .*a\.jpg"):
        list(predict_files(classifier, [tmp_path / "a.jpg"]))


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
