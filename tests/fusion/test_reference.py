import pytest
import torch
import torch.nn.functional as F

import retroclip
from retroclip.encoders import load
from retroclip.errors import ModelError
from retroclip.fusion import ReferenceAugmentation, ReferenceEncoder

UNIT = {"dim": -1}


@pytest.fixture
def augmentation():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(9, 6), **UNIT) for _ in range(2))
    made = ReferenceAugmentation(8, images, texts, k=3, heads=2, blocks=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_a_fresh_one_changes_nothing():
    images = F.normalize(torch.randn(5, 6), **UNIT)
    fresh = ReferenceAugmentation(8, images, images, k=2, heads=2)
    v = F.normalize(torch.randn(4, 8), **UNIT)
    torch.testing.assert_close(fresh(v, torch.zeros(4, 2, dtype=torch.long)), v)


def test_nearest_are_the_largest_cosines_to_the_images(augmentation):
    queries = F.normalize(torch.randn(4, 6), **UNIT)
    expected = (queries @ augmentation.reference[0].T).topk(3, dim=1).indices
    assert torch.equal(augmentation.nearest(queries), expected)
    assert augmentation.k == 3 and ReferenceAugmentation(8, torch.eye(2), torch.eye(2), k=5, heads=2).k == 2


def test_augmented_embeddings_are_the_sum_written_out(augmentation):
    v, near = F.normalize(torch.randn(2, 8), **UNIT), torch.tensor([[0, 4, 2], [7, 1, 1]])
    images = augmentation.reference[0] @ augmentation.image_map.weight.T + augmentation.image_map.bias
    texts = augmentation.reference[1] @ augmentation.text_map.weight.T + augmentation.text_map.bias
    for row in range(2):
        e_i, e_t = images[near[row]][None], texts[near[row]][None]
        a_t = a_i = torch.zeros(1, 8)
        for text_block, image_block in zip(augmentation.ram.texts, augmentation.ram.images, strict=True):
            a_t = text_block(v[row : row + 1], e_i, e_t, a_t)
            a_i = image_block(v[row : row + 1], e_t, e_i, a_i)
        expected = v[row] + a_t[0] + a_i[0]
        torch.testing.assert_close(augmentation(v, near)[row], expected / expected.norm())


def test_the_reference_set_is_neither_trained_nor_checkpointed(augmentation):
    assert not any("reference" in name for name in augmentation.state_dict())


def test_a_saved_encoder_embeds_as_before(tiny_model, make_encoded, tmp_path):
    torch.manual_seed(0)
    base, retriever = (load(str(tiny_model(seed)), precision="fp32") for seed in (0, 1))
    images, texts = (F.normalize(torch.randn(6, 32), **UNIT) for _ in range(2))
    made = ReferenceAugmentation(32, images, texts, k=2, heads=2)
    torch.nn.init.normal_(made.ram.texts[0].linear2.weight)
    encoder = ReferenceEncoder(base, retriever, made, str(tiny_model(1)))
    pictures = [make_encoded(seed) for seed in range(3)]
    embedded = encoder.encode_images(pictures)
    assert not torch.allclose(embedded, base.encode_images(pictures))
    again = retroclip.load(str(encoder.save(tmp_path / "model")), precision="fp32")
    torch.testing.assert_close(again.encode_images(pictures), embedded)
    torch.testing.assert_close(again.encode_texts(["a dog"]), base.encode_texts(["a dog"]))
    assert again.fingerprint == encoder.fingerprint != base.fingerprint
    with pytest.raises(ModelError, match="give it images"):
        again.encode_images(torch.zeros(1, 3, 32, 32))
