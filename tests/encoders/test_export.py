"""ONNX files give the model's own numbers, gates included."""

import errno
import json

import pytest
import torch

from retroclip.classifiers import as_module, stacked_linear, zero_shot
from retroclip.encoders import export, load
from retroclip.encoders.features import FeatureEncoder
from retroclip.encoders.gates import add_gates, gated_blocks
from retroclip.errors import ModelError
from retroclip.tasks import Task

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def encoder(tiny_model):
    """The tiny model with two of its blocks: a graph takes long to trace."""
    whole = load(tiny_model(0), precision="fp32")
    whole.model.visual.transformer.resblocks = whole.model.visual.transformer.resblocks[:2]
    return whole.with_model(whole.model)


def test_embeddings_and_probabilities_from_another_runtime(encoder, make_image, tmp_path):
    import onnxruntime

    add_gates(encoder.model, last=2)
    for gate in gated_blocks(encoder.model):
        gate.alpha_attn.data.fill_(0.5)
    encoder = encoder.with_model(encoder.model)
    head = zero_shot(encoder, Task("pets", classes=["cat", "dog", "bird"]))
    difference = export.export_onnx(encoder, tmp_path / "out", head=as_module(head), classes=head.classes)
    assert difference <= export.TOLERANCE
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["classes"] == head.classes and card["inputs"] == {"pixels": ["batch", 3, 32, 32]}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    images = [make_image(seed) for seed in range(5)]
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    embedding, probability = map(torch.from_numpy, session.run(None, {"pixels": pixels.numpy()}))
    torch.testing.assert_close(embedding, encoder.encode_images(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(probability, head.predict_images(images), atol=1e-5, rtol=0)


def test_a_head_on_features_and_the_pairs_that_it_compares_with(encoder, make_image, tmp_path):
    import onnxruntime

    encoder = FeatureEncoder(encoder)
    labels = torch.arange(24) % 2
    rows = encoder.encode_images([make_image(seed) for seed in range(24)])
    head = stacked_linear(encoder, Task("pets", classes=["cat", "dog", "cow"]), rows, labels)
    head.trained.weights = torch.randn(head.trained.weights.shape, generator=torch.Generator().manual_seed(0))
    export.export_onnx(encoder, tmp_path / "out", head=as_module(head), classes=head.classes)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    images = [make_image(seed) for seed in range(20, 25)]
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    embedding, probability = map(torch.from_numpy, session.run(None, {"pixels": pixels.numpy()}))
    torch.testing.assert_close(embedding, encoder.base.encode_images(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(probability, head.predict_images(images), atol=1e-5, rtol=0)
    assert probability.std(dim=0).min() > 0.01


def test_a_file_that_differs_is_not_left(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_write", lambda module, size, names, file: file.write_bytes(b"another model"))
    monkeypatch.setattr(export, "largest_difference", lambda *given: float("nan"))
    with pytest.raises(ModelError, match="differs by nan"):
        export.export_onnx(encoder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such(encoder, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        export.export_onnx(encoder, tmp_path / "out")
    assert not list(tmp_path.iterdir())
