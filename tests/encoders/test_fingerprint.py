"""One fingerprint for one set of embeddings: whatever the precision, wherever it was saved; another for any change."""

import copy
import json
import shutil

import pytest

from retroclip.encoders import load
from retroclip.encoders.fingerprint import architecture, fingerprint

from .conftest import CONFIGS


@pytest.mark.parametrize("kind", ["vit", "resnet", "hf"])
def test_precision_doesnt_show(kind, model_directory):
    prints = {load(model_directory(kind), precision=p).fingerprint for p in ("fp32", "bf16")}
    assert len(prints) == 1


def test_one_changed_weight_shows(fresh):
    encoder = fresh("vit")
    model = copy.deepcopy(encoder.model)
    model.visual.transformer.resblocks[1].mlp.c_fc.weight.data[3, 5] += 0.01
    assert encoder.with_model(model).fingerprint != encoder.fingerprint


def test_swapped_weights_show(fresh):
    encoder = fresh("vit")
    model = copy.deepcopy(encoder.model)
    first, second = model.visual.transformer.resblocks[:2]
    first.load_state_dict(encoder.model.visual.transformer.resblocks[1].state_dict())
    second.load_state_dict(encoder.model.visual.transformer.resblocks[0].state_dict())
    assert encoder.with_model(model).fingerprint != encoder.fingerprint


def test_what_isnt_in_the_weights_shows(fresh):
    encoder = fresh("vit")
    parts = {
        "model_cfg": encoder.model_cfg,
        "preprocess_cfg": encoder.preprocess_cfg,
        "tokenizer": encoder.tokenizer,
    }
    changes = {
        "model_cfg": encoder.model_cfg | {"quick_gelu": True},
        "preprocess_cfg": encoder.preprocess_cfg | {"interpolation": "bilinear"},
        "tokenizer": lambda texts: encoder.tokenizer([text.lower() + "!" for text in texts]),
    }
    prints = {fingerprint(encoder.model, **parts)}
    prints |= {fingerprint(encoder.model, **parts | {name: changed}) for name, changed in changes.items()}
    assert len(prints) == 4


def test_a_written_out_default_doesnt_show(model_directory, tmp_path):
    directory = shutil.copytree(model_directory("vit"), tmp_path / "copy")
    config = json.loads((directory / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= {"mlp_ratio": 4.0, "image_size": [32, 32], "pool_type": "tok"}
    config["model_cfg"]["quick_gelu"] = False
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    assert load(directory).fingerprint == load(model_directory("vit")).fingerprint


def test_architecture_leaves_out_where_parts_came_from():
    described = architecture(CONFIGS["hf"])
    assert described["text"] == {"context_length": 20}
    assert described["vision"]["layers"] == 4
    assert "mlp_ratio" not in described["vision"]


def test_it_is_short_and_printable(model_directory):
    value = load(model_directory("vit")).fingerprint
    assert len(value) == 32
    assert int(value, 16) >= 0
