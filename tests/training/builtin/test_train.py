"""What the builtin's training starts from, the loss it minimises, and how the result is stored."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from retroclip.errors import RetroclipError
from retroclip.training.builtin import BuiltinRecipe, train, train_builtin
from retroclip.training.builtin.objective import relation_loss, soft_cross_entropy
from retroclip.training.builtin.train import publish, start_from_classes


def test_the_start_is_the_mean_of_class_texts_weighted_by_the_classifier():
    torch.manual_seed(0)
    trunk = timm.create_model("retroclip_hybrid_lite2_d6", num_classes=0)
    head = nn.Sequential()
    head.add_module("proj", nn.Linear(320, 384, bias=False))
    texts = F.normalize(torch.randn(1000, 40) @ torch.randn(40, 384), dim=1)  # of a rank that fits the width
    start_from_classes(SimpleNamespace(visual=SimpleNamespace(trunk=trunk, head=head)), texts)
    trunk.pos_embed.data.zero_()
    images = torch.randn(4, 3, 160, 160)
    with torch.inference_mode():
        embedded = head(trunk(images))
        embed = trunk.patch_embed
        opinion = embed.classifier(embed.backbone(images).mean((2, 3))).softmax(-1)
        agreement = F.cosine_similarity(embedded, opinion @ texts)
        shuffled = F.cosine_similarity(embedded, opinion[[1, 2, 3, 0]].flip(1) @ texts)
    # Not 1: the layer norm takes the mean away.
    assert agreement.min() > 0.97
    assert shuffled.max() < 0.9


def test_the_teachers_own_opinion_costs_nothing():
    target = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]])
    assert soft_cross_entropy(target.clamp_min(1e-30).log(), target).abs() < 1e-6
    uniform = soft_cross_entropy(torch.zeros(2, 3), target)
    expected = sum(float(p) * torch.log(3 * p) for row in target for p in row if p > 0) / 2
    torch.testing.assert_close(uniform, expected)


def test_relations_equal_a_loop_and_cost_nothing_where_they_agree():
    torch.manual_seed(0)
    student, teacher = F.normalize(torch.randn(5, 4), dim=-1), torch.randn(5, 7)
    centred = F.normalize(teacher - teacher.mean(0), dim=-1)
    total = 0.0
    for row in range(5):
        others = [j for j in range(5) if j != row]
        p = torch.stack([centred[row] @ centred[j] / 0.1 for j in others]).softmax(0)
        q = torch.stack([student[row] @ student[j] / 0.1 for j in others]).softmax(0)
        total += float((p * (p / q).log()).sum()) / 5
    assert relation_loss(student, teacher).item() == pytest.approx(total, rel=1e-4)
    assert relation_loss(centred, teacher).item() == pytest.approx(0.0, abs=1e-6)


WORDS = "text.transformer.embeddings.word_embeddings"


@pytest.fixture
def model() -> nn.Module:
    """Word embeddings under the builtin's name for them, and a head."""
    model = nn.Module()
    inner = model
    for name in WORDS.split(".")[:-1]:
        inner.add_module(name, nn.Module())
        inner = getattr(inner, name)
    inner.word_embeddings = nn.Embedding(50, 16)
    model.head = nn.Linear(16, 3)
    with torch.no_grad():
        inner.word_embeddings.weight.mul_(0.05)
    return model


def test_stored_words_take_a_byte_each_and_load_into_any_precision(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text("{}")
    publish(model, tmp_path / "draft", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", "open_clip_model.safetensors"}
    stored = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert stored[f"{WORDS}.weight"].element_size() == 1
    assert stored["head.weight"].element_size() == 2
    model.load_state_dict(stored)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert (value - before[name]).norm() < 0.04 * before[name].norm()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_model_is_replaced_whole_and_what_others_wrote_beside_it_stays(model, tmp_path, monkeypatch):
    draft, out = tmp_path / "draft", tmp_path / "out"
    draft.mkdir()
    out.mkdir()
    (draft / "config.json").write_text("new")
    old = {"config.json": b"old", "open_clip_model.safetensors": b"old", "README.md": b"read me"}
    for name, data in old.items():
        (out / name).write_bytes(data)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            publish(model, draft, out)
    assert contents(out) == old
    publish(model, draft, out)
    published = contents(out)
    assert (published["config.json"], published["README.md"]) == (b"new", b"read me")
    assert len(published["open_clip_model.safetensors"]) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft", "out"]


class StartedError(Exception):
    """The training came past its checks."""


def test_a_run_with_other_settings_is_refused_where_a_state_is(tmp_path, monkeypatch):
    def started(name):
        raise StartedError

    monkeypatch.setattr(train, "warm_start_file", started)
    fields = {"kind": "builtin", "data": "data", "image_weights": "a", "text_weights": "b"}
    fields |= {"wordnet": tmp_path / "data.noun"}
    fields |= {"sources": [{"name": "photos", "file": "photos", "share": 8}], "work": tmp_path / "work"}
    recipe = BuiltinRecipe(**fields, out=tmp_path / "out")
    with pytest.raises(RetroclipError, match="no WordNet noun file"):
        train_builtin(recipe)
    (tmp_path / "data.noun").touch()
    with pytest.raises(StartedError):
        train_builtin(recipe)
    with pytest.raises(StartedError):
        train_builtin(recipe.model_copy(update={"lr": 2e-3}))  # nothing had been trained yet
    (tmp_path / "work" / "state").mkdir()
    with pytest.raises(StartedError):
        train_builtin(recipe.model_copy(update={"lr": 2e-3, "out": tmp_path / "elsewhere"}))
    with pytest.raises(
        RetroclipError, match=r"work holds a run with another lr: set another `work`, or delete .*state"
    ):
        train_builtin(recipe)
