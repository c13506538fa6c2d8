import pytest
import torch
import torch.nn.functional as F

from retroclip.classifiers import class_texts, primed, real_linear, tip_adapter, tip_x, zero_shot
from retroclip.classifiers.cache import balanced_values, cache_logits, signature_logits
from retroclip.classifiers.linear import half_trained, train_head
from retroclip.classifiers.primed import shrunk_centroids, stand_in_centroids
from retroclip.errors import RetroclipError


def test_class_texts_embed_average_normalise(encoder, task):
    rows = class_texts(encoder, task)
    for name, row in zip(task.classes, rows, strict=True):
        mean = encoder.encode_texts(task.prompts(name)).mean(0)
        torch.testing.assert_close(row, mean / mean.norm())


def test_zero_shot_gives_scaled_cosines_and_probabilities(encoder, task, make_images):
    classifier, images = zero_shot(encoder, task), make_images([0, 1, 2])
    torch.testing.assert_close(classifier(images), 20.0 * images @ class_texts(encoder, task).T)
    torch.testing.assert_close(classifier.predict_images(images).sum(1), torch.ones(3))
    assert classifier.classes == task.classes and classifier.encoder is encoder


def test_primed_weights_are_text_and_shrunk_centroid(encoder, task, retrieved):
    texts, images = class_texts(encoder, task), retrieved.image_embeddings
    parts = [images[:6], images[6:8], images[8:11]]
    found = torch.stack([F.normalize(part.mean(0), dim=0) for part in parts])
    guess = stand_in_centroids(texts, found)
    weights = primed(encoder, task, retrieved, alpha=0.3).weights
    for row, part in enumerate(parts):
        n = len(part)
        moved = F.normalize((n * found[row] + guess[row]) / (n + 1), dim=0)
        torch.testing.assert_close(weights[row], F.normalize(0.3 * texts[row] + 0.7 * moved, dim=0))


def test_primed_without_any_named_class_is_the_zero_shot_head(encoder, task, retrieved):
    retrieved.captions = [("grass",)] * 12
    torch.testing.assert_close(primed(encoder, task, retrieved).weights, zero_shot(encoder, task).weights)


def test_a_class_without_pairs_is_not_drowned_by_those_with(encoder, task, retrieved, make_images):
    retrieved.captions = [own if "sea" not in own[0] else ("water",) for own in retrieved.captions]
    retrieved.image_embeddings[6:8] = 0.0
    images, labels = make_images([0, 1, 2] * 30, seed=3), torch.tensor([0, 1, 2] * 30)
    found = lambda weights: ((images @ weights.T).argmax(1) == 1)[labels == 1].float().mean()  # noqa: E731
    weights, texts = primed(encoder, task, retrieved).weights, class_texts(encoder, task)
    naive = torch.stack([weights[0], texts[1], weights[2]])
    assert found(weights) > found(naive) + 0.1


def test_stand_in_centroids_lie_on_the_line_through_classes_that_have_both():
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(4, 8, generator=generator), dim=-1)
    offset = torch.randn(8, generator=generator)
    found = 0.5 * texts + offset
    found[3] = 0
    guessed = stand_in_centroids(texts, found)
    torch.testing.assert_close(guessed, F.normalize(0.5 * texts + offset, dim=1))


def test_shrunk_centroids_are_the_guess_without_pairs_and_the_centroid_with_many(make_images):
    generator = torch.Generator().manual_seed(0)
    texts, found = (F.normalize(torch.randn(3, 8, generator=generator), dim=-1) for _ in range(2))
    found[2] = 0
    moved = shrunk_centroids(texts, found, torch.tensor([1e6, 1.0, 0.0]))
    guess = stand_in_centroids(texts, found)
    torch.testing.assert_close(moved[0], found[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], F.normalize(found[1] + guess[1], dim=0))
    torch.testing.assert_close(moved[2], guess[2])


def test_cache_logits_equal_a_loop(make_images):
    queries, keys, values = make_images([0, 1]), make_images([0, 1, 2], seed=1), torch.eye(3)
    for i, row in enumerate(cache_logits(queries, keys, values, 5.5)):
        expected = [torch.exp(-5.5 * (1 - queries[i] @ key)) for key in keys]
        torch.testing.assert_close(row, torch.stack(expected))


def test_signature_affinity_orders_by_divergence(make_images, encoder, task):
    queries, keys, texts = make_images([0, 1]), make_images([0, 1, 2], seed=1), class_texts(encoder, task)
    affinity = signature_logits(queries, keys, torch.eye(3), texts, 20.0)
    for i in range(2):
        p = (20.0 * texts @ queries[i]).softmax(0)
        kl = torch.stack([(p * (p / (20.0 * texts @ key).softmax(0)).log()).sum() for key in keys])
        torch.testing.assert_close(affinity[i], (kl.max() - kl) / (kl.max() - kl.min()))


def test_tip_adapter_is_zero_shot_plus_a_balanced_cache(encoder, task, retrieved, make_images):
    images = make_images([0, 1, 2], seed=4)
    classifier = tip_adapter(encoder, task, retrieved, alpha=2.0, beta=3.0)
    torch.testing.assert_close(classifier.values.sum(0), torch.full((3,), 16.0))
    cache = cache_logits(images, retrieved.image_embeddings[:11], classifier.values, 3.0)
    torch.testing.assert_close(classifier(images), zero_shot(encoder, task)(images) + 2.0 * cache)
    for given, scale in (({}, encoder.logit_scale), ({"signature_scale": 2.0}, 2.0)):
        extra = tip_x(encoder, task, retrieved, alpha=2.0, beta=3.0, gamma=0.5, **given)(images) - classifier(images)
        expected = signature_logits(images, classifier.keys, classifier.values, classifier.texts, scale)
        torch.testing.assert_close(extra, 0.5 * expected, atol=1e-4, rtol=1e-4)


def test_balanced_values_leave_absent_classes_empty():
    members = torch.tensor([[True, False], [True, False]])
    torch.testing.assert_close(balanced_values(members), torch.tensor([[8.0, 0.0], [8.0, 0.0]]))


def test_real_linear_learns_and_stays_half_zero_shot(encoder, task, retrieved, make_images):
    classifier = real_linear(encoder, task, retrieved.image_embeddings[:11], torch.tensor([0] * 6 + [1] * 2 + [2] * 3))
    images, labels = make_images([0, 1, 2] * 20, seed=5), torch.tensor([0, 1, 2] * 20)
    accuracy = lambda head: (head(images).argmax(1) == labels).float().mean()  # noqa: E731
    assert accuracy(classifier) > accuracy(zero_shot(encoder, task))
    assert classifier.history[-1]["loss"] < classifier.history[0]["loss"]
    assert classifier.trained_parameters == 3 * 8


def test_half_trained_counts_the_text_as_one_more_pair():
    texts, trained = torch.eye(3), torch.diag(torch.tensor([2.0, 4.0, 9.0]))[[1, 0, 2]]
    weights = half_trained(texts, trained, torch.tensor([3, 1, 0]))
    torch.testing.assert_close(weights[0], F.normalize(torch.tensor([1 + 3 / 4, 0.75 * 4, 0.0]), dim=0))
    torch.testing.assert_close(weights[1], F.normalize(torch.tensor([0.5 * 2, 1 + 3 / 2, 0.0]), dim=0))
    torch.testing.assert_close(weights[2], texts[2])


def test_a_class_with_more_pairs_counts_no_more(make_images):
    images = make_images([0, 1])
    few = train_head(torch.eye(3, 8), images, torch.tensor([0, 1]), 5.0, steps=20)
    many = train_head(torch.eye(3, 8), images[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 1]), 5.0, steps=20)
    torch.testing.assert_close(few, many)


def test_nothing_named_is_a_clear_error(encoder, task, retrieved):
    retrieved.captions = [("grass",)] * 12
    with pytest.raises(RetroclipError, match="no retrieved caption names"):
        tip_adapter(encoder, task, retrieved)
    with pytest.raises(RetroclipError, match="no caption names one class of task 'animals': real-linear can't be"):
        real_linear(encoder, task, torch.zeros(0, 8), torch.zeros(0, dtype=torch.long))
