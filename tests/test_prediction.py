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
from retroclip.encoders import load
from retroclip.errors import ModelError, RetroclipError, SourceError
from retroclip.evaluation import Samples
from retroclip.fusion import MemoryEncoder
from retroclip.fusion.mean import MeanFusion
from retroclip.memory import Memory
from retroclip.prediction import Withheld, build_classifier, calibrate, predict_files, withhold
from retroclip.tasks import Task


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


@pytest.fixture
def flowers():
    """A task whose classes the tiny model can't tell apart."""
    return Task("flowers", classes=["rose", "tulip"], templates=["a photo of a {}"])


@pytest.fixture
def remembered(tiny_model, make_encoded, tmp_path):
    """An encoder, its memory of 60 pictures with a random class each, and the first 40 of these as labelled images."""
    labels = np.random.default_rng(0).integers(2, size=60)
    images = [make_encoded(number) for number in range(60)]
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images):
        (tmp_path / "pictures" / f"{number:02}.jpg").write_bytes(image)
        (tmp_path / "pictures" / f"{number:02}.txt").write_text(f"a photo of a {('rose', 'tulip')[labels[number]]}")
    encoder = load(tiny_model(0), precision="fp32")
    encoder.model.logit_scale.data.zero_()  # the memory is to be heard above the class texts
    memory = Memory.create(tmp_path / "mem", encoder, tmp_path / "pictures")
    samples = Samples("seen", None, [str(i) for i in range(40)], images[:40], labels[:40], ["rose", "tulip"])
    return encoder, memory, samples


def test_the_memory_does_not_know_the_images_that_calibrate(remembered, flowers):
    encoder, memory, samples = remembered
    knowing = build_classifier(encoder, flowers, method="tip-adapter", memory=memory)
    assert calibrate(knowing, samples)[1].accuracy > 0.75
    withheld = withhold(encoder, memory, samples)
    assert (withheld.encoder, withheld.left_out, withheld.pairs) == (encoder, 40, 60)
    assert withheld.memory.ids().tolist() == memory.ids()[40:].tolist() and len(memory) == 60
    unknowing = build_classifier(encoder, flowers, method="tip-adapter", memory=withheld.memory)
    assert calibrate(unknowing, samples)[1].accuracy < 0.6


def test_nor_does_the_memory_that_the_model_itself_consults(remembered, flowers):
    encoder, memory, samples = remembered
    fused = MemoryEncoder(encoder, memory, MeanFusion(encoder.dim, weight=1), k=1)
    withheld = withhold(fused, None, samples)
    assert (withheld.memory, withheld.left_out, withheld.pairs) == (None, 40, 60)
    assert withheld.encoder.memory.ids().tolist() == memory.ids()[40:].tolist()
    accuracy = {
        known: calibrate(build_classifier(model, flowers), samples)[1].accuracy
        for known, model in {True: fused, False: withheld.encoder}.items()
    }
    assert accuracy[True] > 0.9 and accuracy[False] < 0.6


def test_calibrating_embeds_an_image_once(remembered, flowers, monkeypatch):
    encoder, memory, samples = remembered
    embedded, encode_images = [], encoder.encode_images

    def counting(images, **options):
        embedded.append(len(images))
        return encode_images(images, **options)

    monkeypatch.setattr(encoder, "encode_images", counting)
    withheld = withhold(encoder, memory, samples)
    calibrate(build_classifier(encoder, flowers, memory=withheld.memory), samples)
    assert embedded == [40]


def test_a_memory_of_the_labelled_images_alone_can_not_be_calibrated(remembered):
    encoder, memory, samples = remembered
    memory.delete("key >= '40'")
    with pytest.raises(SourceError, match=r"every pair of .*mem shows an image of seen: calibrate on images that"):
        withhold(encoder, memory, samples)
    with pytest.raises(SourceError, match="every pair of"):
        withhold(MemoryEncoder(encoder, memory, MeanFusion(encoder.dim)), None, samples)


def test_without_a_memory_nothing_is_withheld(remembered):
    encoder, _, samples = remembered
    assert withhold(encoder, None, samples) == Withheld(encoder, None)


def test_the_default_learns_from_captions_where_they_name_classes(remembered, flowers):
    encoder, memory, _ = remembered
    assert build_classifier(encoder, flowers, memory=memory).name == "stacked-linear"
    others = Task("others", classes=["iris", "lily"], templates=["a photo of a {}"])
    assert build_classifier(encoder, others, memory=memory).name == "primed"
    assert build_classifier(encoder, flowers).name == "zero-shot"


def test_a_method_that_learns_from_labelled_images_is_told_where_these_go(remembered, flowers):
    with pytest.raises(RetroclipError, match="'linear-probe' learns from labelled images, which only `evaluate` and"):
        build_classifier(remembered[0], flowers, method="linear-probe")


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
