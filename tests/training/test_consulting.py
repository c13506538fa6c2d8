"""What works on the towers alone refuses a model that consults a memory or a reference set, in one line each."""

import pytest
import torch

from retroclip.classifiers import zero_shot
from retroclip.classifiers.segmenting import segment
from retroclip.encoders import average
from retroclip.encoders.dense import dense_map, pool_boxes
from retroclip.encoders.export import export_onnx
from retroclip.encoders.features import FeatureEncoder
from retroclip.encoders.merging import merge_gates
from retroclip.errors import ModelError
from retroclip.fusion import MeanFusion, MemoryEncoder, ReferenceAugmentation, ReferenceEncoder
from retroclip.training import customize, fine_tune
from retroclip.training.detector import train_detector

CONSULTED = {"a memory": "tiny + mean", "its reference set": "tiny + ra-clip"}

DENSE = "take the dense features of the model beneath it"


@pytest.fixture(params=CONSULTED)
def consulting(request, encoder, memory):
    """The model, and how the refusal begins."""
    begins = f"{CONSULTED[request.param]} consults {request.param}: "
    if request.param == "a memory":
        return MemoryEncoder(encoder, memory, MeanFusion(32), k=3), begins
    rows = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    return ReferenceEncoder(encoder, encoder, ReferenceAugmentation(32, rows, rows, k=2), "tiny"), begins


def test_tuning_features_export_and_averages_are_refused(consulting, encoder, retrieved, task, held_out, tmp_path):
    model, begins = consulting
    images, labels = held_out
    for act, advice in (
        (lambda: customize(model, retrieved, epochs=1), "customize the model beneath it, then fuse that"),
        (lambda: customize(model, retrieved, tuning="locked-image"), "customize the model beneath it, then fuse that"),
        (lambda: fine_tune(model, task, images, labels, epochs=1), "fine-tune the model beneath it"),
        (lambda: FeatureEncoder(model), "take the features of the model beneath it"),
        (lambda: export_onnx(model, tmp_path / "onnx"), "export the model beneath it"),
        (lambda: merge_gates(model), "export the model beneath it"),
        (lambda: average(model, encoder, 0.5), "average the model beneath it"),
        (lambda: average(encoder, model, 0.5), "average the model beneath it"),
        (lambda: dense_map(model, torch.zeros(1, 3, 32, 32)), DENSE),
        (lambda: pool_boxes(model, images[0], [[0, 0, 9, 9]]), DENSE),
        (lambda: segment(zero_shot(model, task), images[0]), DENSE),
        (lambda: train_detector(model, task, [], [], []), "train a detector on the model beneath it"),
    ):
        with pytest.raises(ModelError) as told:
            act()
        assert str(told.value) == f"{begins}{advice} (`.base`, or base/ in its folder)"
    assert not (tmp_path / "onnx").exists()


def test_the_model_beneath_is_taken(consulting, encoder):
    model, _ = consulting
    assert merge_gates(model.base) is encoder and FeatureEncoder(model.base).base is encoder
