"""ONNX files give the model's own numbers, gates included."""

import json

import pytest
import torch

from retroclip.classifiers import zero_shot
from retroclip.encoders import export, load
from retroclip.encoders.gates import add_gates, gated_blocks
from retroclip.errors import ModelError
from retroclip.tasks import Task

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_embeddings_and_probabilities_from_another_runtime(tiny_model, make_image, tmp_path):
    import onnxruntime

    encoder = load(tiny_model(0), precision="fp32")
    add_gates(encoder.model, last=2)
    for gate in gated_blocks(encoder.model):
        gate.alpha_attn.data.fill_(0.5)
    encoder = encoder.with_model(encoder.model)
    head = zero_shot(encoder, Task("pets", classes=["cat", "dog", "bird"]))
    given = {"weights": head.scale * head.weights, "classes": head.classes}
    assert export.export_onnx(encoder, tmp_path / "out", **given) <= export.TOLERANCE
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["classes"] == head.classes and card["inputs"] == {"pixels": ["batch", 3, 32, 32]}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    images = [make_image(seed) for seed in range(5)]
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    embedding, probability = map(torch.from_numpy, session.run(None, {"pixels": pixels.numpy()}))
    torch.testing.assert_close(embedding, encoder.encode_images(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(probability, head.predict_images(images), atol=1e-5, rtol=0)


def test_a_file_that_differs_is_not_left(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "largest_difference", lambda *given: float("nan"))
    with pytest.raises(ModelError, match="differs by nan"):
        export.export_onnx(load(tiny_model(0), precision="fp32"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
