"""Proposals of torchvision's Faster R-CNN, from random weights that were saved and read again."""

import io
import json
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import WeightsEnum, get_model, get_model_weights

from retroclip.errors import ModelError, RetroclipError, SourceError
from retroclip.evaluation.boxes import load_boxes
from retroclip.evaluation.proposal_network import NETWORKS, detector_of, load_network
from retroclip.evaluation.proposals import choose_proposals
from retroclip.evaluation.protocols import run_protocol
from retroclip.pairs import decode_image
from retroclip.training.detector import scored_proposals

from .test_detection import BOXES, TASK
from .test_regions import ColourEncoder, picture, write

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """torchvision's smallest detector with random weights, and its file under torchvision's name, without the heads."""
    torch.manual_seed(0)
    model = get_model(SMALL, weights=None, weights_backbone=None, num_classes=3).eval()
    for parameter in model.rpn.head.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("network") / f"{SMALL}-00000000.pth"
    kept = {name: value for name, value in model.state_dict().items() if "fc6" not in name}
    torch.save({"model": kept, "epoch": 3}, path)
    return model, path


@pytest.fixture
def boxed(tmp_path):
    return write(tmp_path / "boxes.parquet", [picture(own) for own in BOXES], BOXES)


def test_boxes_are_those_of_torchvision_in_the_pixels_of_the_image(network):
    model, path = network
    values = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    boxes, objectness = load_network(str(path))(stream.getvalue())
    pixels = torch.from_numpy(values).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        images, _ = model.transform([pixels])
        (expected,), _ = model.rpn(images, model.backbone(images.tensors))
    assert images.image_sizes == [(320, 480)] and len(expected) == len(boxes) > 20
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    np.testing.assert_allclose(corners, expected.numpy() * np.array([90 / 480, 60 / 320] * 2), atol=1e-3)
    assert (np.diff(objectness) <= 0).all() and 0 < objectness.min() < objectness.max() < 1
    assert (boxes[:, 2:] > 0).all() and corners.min() >= 0 and (corners.max(axis=0) <= [90.001, 60.001] * 2).all()


def test_detection_with_a_network(network, boxed):
    _, path = network
    options = {"proposals": "network", "network": str(path), "limit": 50}
    result = run_protocol("detection", ColourEncoder(), TASK, boxed, options=options)
    assert result.options["proposals"] == "network" and result.options["network"] == path.name
    assert len(result.options["network_fingerprint"]) == 32 and result.method == "zero-shot"
    proposer = load_network(str(path))
    assert proposer.fingerprint == result.options["network_fingerprint"]
    data = load_boxes(TASK, boxed, empty=True)
    propose = choose_proposals("network", data, limit=7, network=proposer)
    boxes, objectness = propose(1)
    assert boxes.shape == (7, 4) and objectness.shape == (7,)
    # The same figure as from a file of the same boxes: cut, classified, and weighed by the root of objectness.
    propose = choose_proposals("network", data, limit=50, network=proposer)
    rows = [
        {"image_id": i, "bbox": box.tolist(), "score": float(score)}
        for i in range(3)
        for box, score in zip(*propose(i), strict=True)
    ]
    given = path.parent / "given.json"
    given.write_text(json.dumps(rows))
    again = run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": str(given), "limit": 50})
    assert again.metrics == pytest.approx(result.metrics)
    assert again.options["detections"] == result.options["detections"] > 0


def test_which_detector_a_file_is_of(tmp_path, network):
    model, path = network
    state = model.state_dict()
    assert detector_of(state, path) == SMALL
    assert detector_of(state, tmp_path / "mine.pth") == "fasterrcnn_mobilenet_v3_large_fpn"
    body = {"backbone.body.conv1.weight": torch.zeros(1)}
    assert detector_of(body, path) == "fasterrcnn_resnet50_fpn"
    assert detector_of(body | {"rpn.head.conv.1.0.weight": torch.zeros(1)}, path) == NETWORKS[0]
    with pytest.raises(ModelError, match=r"x\.pth holds no Faster R-CNN of torchvision"):
        detector_of({"weight": torch.zeros(1)}, tmp_path / "x.pth")


def test_older_names_and_frozen_normalisation_are_read(tmp_path, network):
    """Files as torchvision published them: layers one level higher, no counters of batches."""
    model, path = network
    older = {}
    for name, value in model.state_dict().items():
        old = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in old:
            old = old.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if not old.endswith("num_batches_tracked"):
            older[old] = value
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.1.weight"} <= set(older)
    torch.save(older, tmp_path / path.name)
    assert load_network(str(tmp_path / path.name)).fingerprint == load_network(str(path)).fingerprint


def test_wrong_networks_are_one_line(tmp_path, network, boxed):
    model, path = network
    state = model.state_dict()
    torch.save({name: value for name, value in state.items() if "cls_logits" not in name}, tmp_path / path.name)
    with pytest.raises(ModelError, match=r"000\.pth doesn't fit the architecture: it lacks rpn\.head\.cls_logits"):
        load_network(str(tmp_path / path.name))
    torch.save(state | {"rpn.head.cls_logits.bias": torch.full((15,), torch.nan)}, tmp_path / path.name)
    with pytest.raises(ModelError, match="holds NaN or infinite weights, such as rpn"):
        load_network(str(tmp_path / path.name))
    with pytest.raises(SourceError, match=r"no proposal network 'no\.pth': name a file of weights"):
        load_network("no.pth")
    for options, problem in (
        ({"network": str(path)}, "network is for proposals 'network', not for 'grid'"),
        ({"proposals": "network", "train": boxed}, "proposals of its own"),
        ({"proposals": "truth", "train": boxed}, "proposals of its own"),
        ({"limit": 0}, "at least 1, not 0"),
    ):
        with pytest.raises(RetroclipError, match=problem):
            run_protocol("detection", ColourEncoder(), TASK, boxed, options=options)


def test_without_a_connection_one_line_says_what_to_provide(monkeypatch, boxed):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(SourceError) as caught:
        run_protocol("detection", ColourEncoder(), TASK, boxed, options={"proposals": "network"})
    message = str(caught.value)
    assert "fasterrcnn_resnet50_fpn_v2 can't be downloaded" in message and "--set.network FILE" in message
    assert get_model_weights(NETWORKS[0]).DEFAULT.url in message and "\n" not in message


def test_weights_by_name_are_torchvisions_own(monkeypatch, network):
    model, path = network
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: model.state_dict())
    assert load_network(SMALL).fingerprint == load_network(str(path)).fingerprint


def test_scores_that_overflow_are_refused(network):
    model, _ = network
    images, _ = model.transform([torch.full((3, 8, 8), 0.5)])
    features = {name: value * torch.inf for name, value in model.backbone(images.tensors).items()}
    with pytest.raises(ModelError, match="NaN or infinite boxes or scores"):
        scored_proposals(model.rpn, images, features)


def test_published_resnet50_is_normalised_without_epsilon(monkeypatch):
    torch.manual_seed(0)
    state = get_model(NETWORKS[1], weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    layers = [each for each in load_network(NETWORKS[1]).model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert len(layers) == 53 and {each.eps for each in layers} == {0.0}


def test_pictures_of_every_mode_are_seen_in_colour(network):
    _, path = network
    stream = io.BytesIO()
    Image.new("L", (30, 20), 90).save(stream, "PNG")
    assert decode_image(stream.getvalue()).size == (30, 20)
    assert load_network(str(path))(stream.getvalue())[0].shape[1] == 4
