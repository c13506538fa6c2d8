"""The video transformer: learns, from random weights or from a file; torchvision's architectures by name."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights

import retroclip
from retroclip.errors import ModelError, RetroclipError
from retroclip.evaluation.protocols import run_protocol
from retroclip.evaluation.video import Architecture
from retroclip.tasks import Task
from retroclip.training import video
from retroclip.training.video import PUBLISHED, SIZES, VideoTower, reader, train_video

TASK = Task("colours", classes=["red", "green", "blue"])


@pytest.fixture
def encoder(tiny_model):
    return retroclip.load(tiny_model(0), precision="fp32")


@pytest.fixture
def clips():
    """Twelve clips of three frames, red, green and blue in turn."""
    made = []
    for i in range(12):
        values = np.zeros((3, 30, 40, 3), np.uint8)
        for frame in range(3):
            values[frame, :, : 10 + 10 * frame, i % 3] = 250 - i
        made.append([Image.fromarray(each) for each in values])
    return made


def test_training_lowers_the_loss(clips, encoder):
    losses = []
    tower = VideoTower(encoder, frames=4, size=32)
    train_video(tower, encoder, TASK, clips, [0, 1, 2] * 4, epochs=6, on_epoch=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    pixels = tower.pixels(clips[0])
    assert pixels.shape == (3, 4, 32, 32) and torch.equal(pixels[:, 2], pixels[:, 3])  # filled up with the last frame


def test_pixels_are_kept_while_there_is_room(clips, encoder, monkeypatch):
    asked = []

    class Counted(list):
        def __getitem__(self, row):
            asked.append(row)
            return clips[row]

    tower = VideoTower(encoder, frames=4, size=32)
    read = reader(tower, Counted(), room=2 * tower.pixels(clips[0]).nbytes)
    for _ in range(2):
        for row in range(3):
            assert torch.equal(read(row), tower.pixels(clips[row]))
    assert asked == [0, 1, 2, 2]


def test_architectures_are_torchvision_s():
    assert get_args(Architecture) == (*SIZES, *PUBLISHED)
    with torch.device("meta"):
        for name in PUBLISHED:
            names = get_model(name, num_classes=8).state_dict()
            assert any(each.startswith("head.") for each in names) and get_model_weights(name).DEFAULT is not None


@pytest.fixture
def small_published(monkeypatch):
    """`swin3d_t` with the small architecture's layers: the real one takes seconds to make."""

    def small(name, weights, num_classes):
        assert weights is None  # nothing is downloaded
        return video.SwinTransformer3d(
            patch_size=[2, 4, 4],
            window_size=[8, 7, 7],
            num_classes=num_classes,
            stochastic_depth_prob=0,
            **SIZES["small"],
        )

    monkeypatch.setattr(video, "get_model", small)
    return small


def test_published_preprocessing(encoder, clips, small_published):
    tower = VideoTower(encoder, frames=3, architecture="swin3d_t")
    frames = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in clips[0]])
    expected = get_model_weights("swin3d_t").DEFAULT.transforms()(frames)
    torch.testing.assert_close((tower.pixels(clips[0]).float() / 255 - tower.mean) / tower.std, expected)
    for architecture in ("mvit_v1_b", "mvit_v2_s"):
        with pytest.raises(RetroclipError, match="takes 16 frames a clip, not 8"):
            VideoTower(encoder, architecture=architecture)


def test_a_batch_is_one_step_however_it_is_taken_apart(encoder, clips, small_published, monkeypatch):
    learnt = []
    for together in (3, 2):
        monkeypatch.setattr(video, "TOGETHER", together)
        tower = VideoTower(encoder, frames=2, architecture="swin3d_t")
        tower.frame = lambda image: video.pil_to_tensor(image.resize((32, 32)))  # 224 pixels take a second
        train_video(tower, encoder, TASK, [own[:2] for own in clips[:3]], [0, 1, 2], epochs=2)
        learnt.append(tower.body.norm.weight.detach())
    torch.testing.assert_close(*learnt, rtol=1e-5, atol=1e-6)


def test_weights_from_a_file(tmp_path, encoder, clips, small_published):
    published = small_published("swin3d_t", None, 400)
    state = published.state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    for file in ("a.pth", "a.safetensors"):
        tower = VideoTower(encoder, frames=4, architecture="swin3d_t", weights=tmp_path / file)
        loaded = tower.body.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in state.items() if not name.startswith("head."))
        assert len(loaded["head.weight"]) == encoder.dim
    other = VideoTower(encoder, frames=4, architecture="swin3d_t", weights=tmp_path / "a.pth", seed=1)
    assert other.fingerprint == tower.fingerprint  # that of the file, whatever the new head starts from
    head, rest = video.rates(tower, 1.0)
    assert len(head["params"]) == 2 and head["lr"] == 1 and rest["lr"] == pytest.approx(0.1)
    before = tower.body.patch_embed.proj.weight.clone()
    train_video(tower, encoder, TASK, clips[:3], [0, 1, 2], epochs=1)
    assert 0 < (tower.body.patch_embed.proj.weight - before).abs().max() < 2e-4  # a step at a tenth of 1e-3


def test_weights_that_do_not_fit(tmp_path, encoder, small_published):
    state = small_published("swin3d_t", None, 400).state_dict()
    torch.save({f"backbone.{name}": value for name, value in state.items()}, tmp_path / "other.pth")
    torch.save(state | {"norm.bias": torch.full_like(state["norm.bias"], torch.nan)}, tmp_path / "nan.pth")
    for file, said in (
        ("other.pth", "as weights of small doesn't fit the architecture: it lacks "),
        ("nan.pth", "NaN or infinite weights, such as norm.bias"),
        ("none.pth", "can't be read as weights"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            VideoTower(encoder, weights=tmp_path / file)
        assert "\n" not in str(caught.value)
    with pytest.raises(RetroclipError, match="weights of protocol video is for training"):
        run_protocol("video", encoder, TASK, "a.parquet", options={"weights": "a.pth"})
