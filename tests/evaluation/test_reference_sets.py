"""A reference set among whose images are evaluated ones: they are hidden and counted, and its neighbours corrupted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import retroclip
from retroclip.classifiers import zero_shot
from retroclip.encoders import load
from retroclip.evaluation import Samples, evaluate_retrieval, retrieval_metrics
from retroclip.evaluation.leakage import near_references
from retroclip.evaluation.protocol_runs import evaluate_protocol
from retroclip.evaluation.protocols import run_protocol
from retroclip.fusion import ReferenceAugmentation, ReferenceEncoder
from retroclip.pairs import Pair, thumbnail
from retroclip.prediction import withhold
from retroclip.report.notes import shared_notes
from retroclip.tasks import Task

TASK = Task("pets", classes=["cat", "dog"])


@pytest.fixture(scope="module")
def towers(tiny_model):
    return [load(str(tiny_model(seed)), precision="fp32") for seed in (0, 1)]


@pytest.fixture(scope="module")
def encoder(towers, make_encoded):
    """Its reference set are the photos 0 to 11; photo 3 once more at another size."""
    base, retriever = towers
    pictures = [make_encoded(seed) for seed in range(12)] + [make_encoded(3, size=(96, 64))]
    torch.manual_seed(0)
    texts = F.normalize(torch.randn(len(pictures), 32), dim=1)
    made = ReferenceAugmentation(32, retriever.encode_images(pictures), texts, k=4, heads=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shown = torch.from_numpy(np.stack([thumbnail(picture) for picture in pictures])).half()
    return ReferenceEncoder(base, retriever, made.eval(), "small", shown)


@pytest.fixture
def samples(make_encoded):
    """Photos 3, 7 and others that no reference shows."""
    photos = [3, 7, *range(20, 40)]
    images = [make_encoded(seed) for seed in photos]
    return Samples("pets", "val", [f"{seed}" for seed in photos], images, np.arange(22) % 2, list(TASK.classes))


def test_evaluated_references_are_those_that_are_near_and_look_alike(encoder, samples, towers, monkeypatch):
    assert near_references(encoder, samples.images).tolist() == [3, 7, 12]
    assert near_references(encoder, samples.images[2:]).tolist() == []
    monkeypatch.setattr(encoder, "thumbnails", None)
    near = (encoder.augmentation.reference[0] @ towers[1].encode_images(samples.images).T).amax(1) > 0.95
    assert near_references(encoder, samples.images).tolist() == near.nonzero().ravel().tolist()
    by_cosine = retroclip.evaluate(encoder, TASK, samples, resamples=0)
    assert any("(cosine over 0.95 alone: it keeps no thumbnails)" in note for note in shared_notes([by_cosine]))


def test_hidden_pairs_are_never_found_and_all_of_them_leave_the_base(encoder, samples):
    rest = encoder.without(np.array([3, 7, 12]))
    assert rest.pairs == 10 and len(rest.thumbnails) == 10 and encoder.pairs == 13
    kept = np.setdiff1d(np.arange(13), [3, 7, 12])
    plain, near = rest.look_up(samples.images)
    cosines = encoder.retriever.encode_images(samples.images) @ encoder.augmentation.reference[0].T
    cosines[:, [3, 7, 12]] = -1
    found = cosines.topk(4).indices
    assert (kept[near.numpy()] == found.numpy()).all()
    torch.testing.assert_close(rest.encode_images(samples.images), encoder.augment(plain, found))
    none = encoder.without(np.arange(13))
    torch.testing.assert_close(none.encode_images(samples.images), plain)
    assert encoder.without(np.zeros(0, np.int64)) is encoder


def test_classification_hides_and_counts_them(encoder, samples):
    result = retroclip.evaluate(encoder, TASK, samples, resamples=0)
    assert (result.memory, result.memory_pairs, result.excluded_near_duplicates) == ("reference set", 13, 3)
    assert result.fingerprint == encoder.fingerprint == encoder.without(np.array([3])).fingerprint
    embedded = encoder.without(np.array([3, 7, 12])).encode_images(samples.images)
    expected = (embedded @ zero_shot(encoder, TASK).weights.T).argmax(1).numpy()
    other = retroclip.compare(encoder, TASK, samples, None, methods=["zero-shot"], seeds=[0], resamples=0)[0]
    assert (other.memory_pairs, other.excluded_near_duplicates) == (13, 3)
    for found in (result, other):
        assert (found.outcomes[0].predicted == expected).all()
    assert (encoder.encode_images(samples.images) - embedded).abs().max() > 0.01
    plain = retroclip.evaluate(encoder.base, TASK, samples, resamples=0)
    assert plain.memory is None and plain.excluded_near_duplicates is None


def test_unreadable_images_are_left_out_before_they_are_looked_at(encoder, samples):
    samples.images[5] = b"no image"
    result = retroclip.evaluate(encoder, TASK, samples, resamples=0)
    assert result.n == 21 and result.excluded_near_duplicates == 3 and len(result.rejected) == 1


def test_image_text_retrieval_hides_and_counts_them(encoder, samples, monkeypatch):
    pairs = [
        Pair(key=key, image=image, captions=(f"photo {key}",))
        for key, image in zip("abcd", samples.images, strict=False)
    ]
    monkeypatch.setattr(
        "retroclip.pairs.read_pairs", lambda source, where=None: iter(pairs if source == "all" else pairs[2:])
    )
    result = evaluate_retrieval(encoder, "all", resamples=0)
    assert (result.memory, result.memory_pairs, result.excluded_near_duplicates) == ("reference set", 13, 3)
    seen = encoder.without(np.array([3, 7, 12])).encode_images([pair.image for pair in pairs])
    texts = encoder.encode_texts([f"photo {key}" for key in "abcd"])
    assert result.metrics == pytest.approx(retrieval_metrics(seen, texts, torch.arange(4)))
    assert evaluate_retrieval(encoder, "others", resamples=0).excluded_near_duplicates == 0


def test_calibration_hides_them(encoder, samples):
    held = withhold(encoder, None, samples)
    assert (held.left_out, held.pairs, held.encoder.pairs) == (3, 13, 10)


def test_a_share_of_the_neighbours_is_replaced(encoder, samples, monkeypatch):
    monkeypatch.setattr("retroclip.evaluation.corrupted.load_samples", lambda task, dataset, where: samples)
    result = run_protocol("corrupted-neighbours", encoder, TASK, "pets")
    assert result.memory == "reference set" and result.excluded_near_duplicates == 3
    clean = encoder.without(np.array([3, 7, 12]))
    assert result.metrics["top1 at 0"] == retroclip.evaluate(encoder, TASK, samples, resamples=0).top1
    assert result.baselines["top1"] == retroclip.evaluate(encoder.base, TASK, samples, resamples=0).top1
    drawn = []
    augment = type(clean).augment
    monkeypatch.setattr(type(clean), "augment", lambda self, v, rows: drawn.append(rows) or augment(self, v, rows))
    run_protocol("corrupted-neighbours", encoder, TASK, "pets", options={"share": 0.5})
    differing = [float((rows != drawn[0]).float().mean()) for rows in drawn]
    assert differing[0] == 0 and differing == sorted(differing) and 0.3 < differing[2] <= 0.5 < differing[4]


def test_other_protocols_hide_them(encoder, samples, tmp_path):
    for row, image in enumerate(samples.images):
        folder = tmp_path / "val" / TASK.classes[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.jpg").write_bytes(image)
    task = Task("pets", classes=TASK.classes, novel=["dog"])
    result = evaluate_protocol("entities", encoder, task, tmp_path / "val")
    assert (result.memory_pairs, result.excluded_near_duplicates) == (13, 3)
