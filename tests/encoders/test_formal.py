import json

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.factory import get_model_config
from timm.models import build_model_with_cfg

from retroclip.encoders import Encoder, list_architectures, load
from retroclip.encoders.formal import FormalVisionTransformer, ResidualMlp
from retroclip.encoders.loading import build, preprocessing


def parameters_of_a_block(width: int) -> int:
    """Attention 4w² + 4w, MLP 8w² + 5w, two LayerNorms 4w."""
    return 12 * width**2 + 13 * width


@pytest.mark.parametrize(
    ("name", "size", "patch", "whole"),
    [("Formal-ViT-B-32-224", 224, 32, 155_974_401), ("Formal-ViT-B-16-112", 112, 16, 154_204_929)],
)
def test_formal_clip_has_the_papers_layers(name, size, patch, whole):
    model = build(get_model_config(name))
    trunk, positions = model.visual.trunk, (size // patch) ** 2 + 1
    assert positions == 50
    assert (len(trunk.blocks), trunk.embed_dim, trunk.blocks[0].attn.num_heads) == (12, 768, 12)
    assert trunk.blocks[0].mlp.fc1.out_features == trunk.g.fc1.out_features == 3072
    image = 3 * patch**2 * 768 + 768 + 768 + positions * 768 + 12 * parameters_of_a_block(768)
    g = 2 * 768 * 3072 + 3072 + 768
    text = 49408 * 512 + 32 * 512 + 12 * parameters_of_a_block(512) + 2 * 512
    projections = 768 * 512 + 512 * 512
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == image + g + text + projections + 1 == whole
    assert model.context_length == 32
    assert model.transformer.resblocks[0].attn.num_heads == 8


def small(**kwargs) -> FormalVisionTransformer:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    cfg = {"input_size": (3, 16, 16), "num_classes": 0}
    return build_model_with_cfg(
        FormalVisionTransformer, "small", False, pretrained_cfg=cfg, global_pool="token", **shape | kwargs
    ).eval()


def test_the_tower_is_algorithm_1_written_out():
    tower, images = small().double(), torch.randn(3, 3, 16, 16).double()
    weight = tower.patch_embed.proj
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(3, 4, -1)
    x = patches @ weight.weight.flatten(1).T + weight.bias
    x = torch.cat([tower.cls_token.expand(3, -1, -1), x], dim=1) + tower.pos_embed
    for block in tower.blocks:
        h = F.layer_norm(x, (24,), block.norm1.weight, block.norm1.bias, 1e-6)
        q, k, v = (h @ block.attn.qkv.weight.T + block.attn.qkv.bias).reshape(3, 5, 3, 2, 12).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-2, -1)) / 12**0.5).softmax(-1) @ v
        x = x + attended.transpose(1, 2).reshape(3, 5, 24) @ block.attn.proj.weight.T + block.attn.proj.bias
        h = F.layer_norm(x, (24,), block.norm2.weight, block.norm2.bias, 1e-6)
        h = F.gelu(h @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        x = x + h @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    head, token = tower.g, x[:, 0]
    hidden = token @ head.fc1.weight.T + head.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = hidden @ head.fc2.weight.T + head.fc2.bias + token
    torch.testing.assert_close(tower(images), expected, rtol=1e-5, atol=1e-7)


def test_residual_mlp_is_the_identity_when_its_output_is_zero():
    g, x = ResidualMlp(8, 16), torch.randn(4, 8)
    torch.nn.init.zeros_(g.fc2.weight)
    torch.nn.init.zeros_(g.fc2.bias)
    assert torch.equal(g(x), x)


def test_every_architecture_is_known_to_open_clip():
    assert {"Formal-ViT-B-16-112", "Small-CLIP-48", "iCAR-Swin-T-RoBERTa"} <= set(list_architectures())
    for name in list_architectures():
        tower = get_model_config(name)["vision_cfg"]["timm_model_name"]
        assert timm.is_model(tower), name


def test_a_small_model_goes_to_disk_and_back(tmp_path):
    torch.manual_seed(0)
    cfg = get_model_config("Small-CLIP-48")
    model = build(cfg, draw=True)
    encoder = Encoder(
        "small", model, open_clip.SimpleTokenizer(context_length=32), model_cfg=cfg,
        preprocess_cfg=preprocessing(model, {}), device="cpu",
    )  # fmt: skip
    encoder.save(tmp_path / "model")
    again = load(tmp_path / "model", precision="fp32")
    assert again.fingerprint == encoder.fingerprint
    assert json.loads((tmp_path / "model" / "open_clip_config.json").read_text())["preprocess_cfg"]["size"] == [48, 48]
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(again.encode_images(images), encoder.encode_images(images))
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'model'}")
    plain.eval()
    with torch.no_grad():
        features = F.normalize(plain.encode_image(images), dim=-1)
    torch.testing.assert_close(features, encoder.encode_images(images), rtol=1e-4, atol=1e-5)
