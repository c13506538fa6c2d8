import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

import retroclip
from retroclip.classifiers import sgd_probe
from retroclip.encoders import Encoder, load
from retroclip.errors import ModelError
from retroclip.evaluation import Samples
from retroclip.fusion import ReferenceAugmentation, ReferenceEncoder
from retroclip.methods import MethodContext, get_method
from retroclip.pairs import decode_image
from retroclip.prediction import predict_files
from retroclip.tasks import Task
from retroclip.training import augmented_probe
from retroclip.training.views import View, cache_views

UNIT = {"dim": -1}


@pytest.fixture
def augmentation():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(9, 6), **UNIT) for _ in range(2))
    made = ReferenceAugmentation(8, images, texts, k=3, heads=2, blocks=2, length=1.5)
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
            a_t = text_block(1.5 * v[row : row + 1], e_i, e_t, a_t)
            a_i = image_block(1.5 * v[row : row + 1], e_t, e_i, a_i)
        expected = 1.5 * v[row] + a_t[0] + a_i[0]
        torch.testing.assert_close(augmentation(v, near)[row], expected / expected.norm())


def test_the_reference_set_is_neither_trained_nor_checkpointed(augmentation):
    assert not any("reference" in name for name in augmentation.state_dict())


@pytest.fixture
def retriever():
    """An encoder that sees less of an image than the base does: 16 pixels, other means."""
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 6, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(3)
    model = CLIP(**config)
    model.visual.conv1.weight.data *= 5
    cfg = {"size": (16, 16), "mode": "RGB", "mean": (0.4,) * 3, "std": (0.25,) * 3}
    cfg |= {"interpolation": "bilinear", "resize_mode": "shortest", "fill_color": 0}
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Encoder("small", model, tokenizer, model_cfg=config, preprocess_cfg=cfg, precision="fp32", device="cpu")


@pytest.fixture
def encoder(tiny_model, retriever, make_encoded):
    """A base encoder and a reference set of the photos 0 to 8, of which each finds itself."""
    base = load(str(tiny_model(0)), precision="fp32")
    images = retriever.encode_images([make_encoded(seed) for seed in range(9)])
    torch.manual_seed(0)
    made = ReferenceAugmentation(32, images, F.normalize(torch.randn(9, 6), **UNIT), k=2, heads=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ReferenceEncoder(base, retriever, made.eval(), "small")


def test_preprocessed_images_are_looked_up_as_images_are(encoder, make_encoded):
    images = [make_encoded(seed) for seed in range(5)]
    rows = torch.stack([encoder.preprocess(decode_image(image)) for image in images])
    assert rows.shape == (5, 3 * (32 * 32 + 16 * 16))
    embedded = encoder.encode_images(images)
    torch.testing.assert_close(encoder.encode_images(rows, batch_size=2), embedded)
    assert not torch.allclose(embedded, encoder.base.encode_images(images), atol=0.1)
    assert encoder.encode_images([]).shape == (0, 32)
    with pytest.raises(ModelError, match=r"or what its own `preprocess` makes of them, not pixels \(1, 3"):
        encoder.encode_images(torch.zeros(1, 3, 32, 32))


def test_a_view_is_looked_up_by_what_the_retriever_sees_of_it(encoder, make_encoded):
    """Of a photo 200 pixels wide the retriever sees the middle; the views' crops show it other parts."""
    images = [make_encoded(seed, size=(200, 40)) for seed in range(4)]
    cached = cache_views(encoder, images, stage="embedding", views=2, seed=1)
    for number in range(3):
        seen = [View(images, number, 1)[row] for row in range(4)]
        near = encoder.augmentation.nearest(encoder.retriever.encode_images(seen))
        expected = encoder.augmentation(encoder.base.encode_images(seen), near)
        torch.testing.assert_close(cached[number].float(), expected, atol=1e-3, rtol=0)


def test_probes_learn_from_what_the_reference_set_adds(encoder, make_encoded):
    images, labels = [make_encoded(seed) for seed in range(6)], torch.tensor([0, 1, 0, 1, 0, 1])
    task = Task("pets", classes=["cat", "dog"])
    views = cache_views(encoder, images, stage="embedding", views=1, colours=False).float()
    expected = sgd_probe(encoder, task, F.normalize(views, **UNIT), labels, epochs=5)
    torch.testing.assert_close(
        augmented_probe(encoder, task, images, labels, views=1, epochs=5).weights, expected.weights
    )
    augmented = augmented_probe(encoder, task, images, labels, views=1, init="text")
    assert augmented.encoder is encoder and augmented.predict_images(images).shape == (6, 2)
    assert (augmented.predict_images(images).argmax(dim=1) == labels).all()


def test_methods_that_probe_take_it_and_files_are_classified(encoder, make_encoded, tmp_path):
    task, labels = Task("pets", classes=["cat", "dog"]), torch.tensor([0, 1, 0, 1, 0, 1])
    images = [make_encoded(seed) for seed in range(6)]
    train = Samples("pets", None, list("abcdef"), images, labels.numpy(), list(task.classes))
    context = MethodContext(encoder, None, task, train=train)
    files = [tmp_path / f"{seed}.jpg" for seed in range(6)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    for method in ("linear-probe", "linear-probe-text", "linear-probe-sgd", "linear-probe-sgd-text"):
        probe = get_method(method)(context)
        likeliest = probe.predict_images(images).max(dim=1)
        predicted = list(predict_files(probe, files, batch_size=4))
        assert [one.label for one in predicted] == [probe.classes[row] for row in likeliest.indices.tolist()]
        torch.testing.assert_close(torch.tensor([one.probability for one in predicted]), likeliest.values)


def test_a_model_from_before_there_were_lengths_keeps_its_fingerprint(encoder):
    """Its card names none, and memories that it made name its fingerprint."""
    before = encoder.fingerprint
    assert encoder.augmentation.options.pop("length") == 1
    assert encoder.fingerprint == before
    encoder.augmentation.options["length"] = 3.0
    assert encoder.fingerprint != before


def test_a_saved_encoder_embeds_as_before(tiny_model, make_encoded, tmp_path):
    torch.manual_seed(0)
    base, retriever = (load(str(tiny_model(seed)), precision="fp32") for seed in (0, 1))
    images, texts = (F.normalize(torch.randn(6, 32), **UNIT) for _ in range(2))
    made = ReferenceAugmentation(32, images, texts, k=2, heads=2, length=3.0)
    torch.nn.init.normal_(made.ram.texts[0].linear2.weight)
    encoder = ReferenceEncoder(base, retriever, made, str(tiny_model(1)), torch.randn(6, 768).half())
    pictures = [make_encoded(seed) for seed in range(3)]
    embedded = encoder.encode_images(pictures)
    assert not torch.allclose(embedded, base.encode_images(pictures))
    again = retroclip.load(str(encoder.save(tmp_path / "model")), precision="fp32")
    torch.testing.assert_close(again.encode_images(pictures), embedded)
    torch.testing.assert_close(again.encode_texts(["a dog"]), base.encode_texts(["a dog"]))
    assert again.fingerprint == encoder.fingerprint != base.fingerprint
    assert (again.name, again.loaded_from) == ("model", str(tmp_path / "model"))
    assert torch.equal(again.thumbnails, encoder.thumbnails) and again.augmentation.ram.length == 3
