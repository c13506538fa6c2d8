import math

import pytest
import torch
import torch.nn.functional as F

from retroclip.classifiers import class_texts, stacked_linear, zero_shot
from retroclip.classifiers.primed import primed_texts
from retroclip.classifiers.stacked import Known, head, held_out, level, stack
from retroclip.errors import RetroclipError

LABELS = torch.tensor([0, 1, 2] * 12)


def accuracy(head, images, labels):
    return float((head(images).argmax(1) == labels).float().mean())


def test_it_learns_where_captions_are_right_and_stays_zero_shot_where_they_are_not(encoder, task, make_images):
    images, labels = make_images([0, 1, 2] * 40, seed=9), torch.tensor([0, 1, 2] * 40)
    base = accuracy(zero_shot(encoder, task), images, labels)
    right = stacked_linear(encoder, task, make_images(LABELS.tolist()), LABELS)
    assert accuracy(right, images, labels) > base + 0.1
    drawn = torch.randint(3, (36,), generator=torch.Generator().manual_seed(0))
    wrong = stacked_linear(encoder, task, make_images(LABELS.tolist()), drawn)
    assert wrong.chosen["primed"] < 0.5 < right.chosen["primed"] and wrong.chosen["head"] < 0.02
    assert right.chosen["pairs"] == 36 and right.trained_parameters == 3 * 8 + 2
    assert right.history[-1]["loss"] < right.history[0]["loss"]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_logits_are_those_of_the_formula(encoder, task, make_images, alpha):
    rows, queries = make_images(LABELS.tolist()), make_images([0, 1, 2], seed=4)
    made = stacked_linear(encoder, task, rows, LABELS, alpha=alpha, sharpness=0.7)
    weights = made.chosen["head"] * made.trained.weights
    texts = class_texts(encoder, task)
    primed = primed_texts(texts, rows, torch.eye(3)[LABELS].bool(), alpha)
    assert torch.allclose(primed, texts) == (alpha == 1)
    x = F.normalize(queries - rows.mean(0), dim=-1)
    known = F.normalize(rows - rows.mean(0), dim=-1)
    own = (known @ known.T).fill_diagonal_(-2)
    usual = own.topk(10).values.mean(1)
    spread = (own.topk(10).values.mean(1) - usual[own.topk(10).indices].mean(1)).std(correction=0)
    for i in range(3):
        scores, near = (known @ x[i]).topk(10)
        g = math.exp(0.7 * min(0.0, float((scores - usual[near]).mean() / spread)))
        expected = made.chosen["primed"] * 20.0 * (texts + g * (primed - texts)) @ queries[i] + g * weights @ x[i]
        torch.testing.assert_close(made(queries)[i], expected)


def test_features_behind_the_embedding_are_what_the_head_reads(encoder, task, make_images):
    embeddings, features = make_images([0] * 36), torch.eye(5)[LABELS] + 0.01 * torch.randn(36, 5)
    made = stacked_linear(encoder, task, torch.cat([embeddings, features], 1), LABELS)
    assert made.trained.weights.shape == (3, 5)
    same = torch.cat([make_images([0, 0, 0]), torch.eye(5)[:3]], 1)
    assert made(same).argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(made(same), made(torch.cat([3 * same[:, :8], 2 * same[:, 8:]], 1)))
    assert made.name == "stacked-linear-features"


def test_pictures_of_another_kind_are_left_to_the_zero_shot_head(encoder, task, make_images):
    made = stacked_linear(encoder, task, make_images(LABELS.tolist()), LABELS, sharpness=2.0)
    far = F.normalize(torch.eye(8)[[3, 7]] - torch.eye(8)[4:7].sum(0), dim=-1)
    assert made.known.relevance(F.normalize(far - made.centre, dim=-1)).max() < 0.01
    near = F.normalize(make_images([0, 1, 2], seed=4) - made.centre, dim=-1)
    assert made.known.relevance(near).mean() > 0.2
    assert Known(made.known.rows, 0.0).relevance(far).tolist() == [1.0, 1.0]


class Spy:
    """Heads that answer with the rows that they have seen."""

    def __init__(self) -> None:
        self.seen: list[set[int]] = []

    def __call__(self, seen, asked):
        assert not (seen & asked).any()
        self.seen.append(set(seen.nonzero()[:, 0].tolist()))
        return torch.stack([asked.nonzero()[:, 0], -asked.nonzero()[:, 0]])[:, :, None].expand(-1, -1, 2).float()


def test_held_out_logits_are_of_heads_that_have_not_seen_the_row(monkeypatch):
    labels, spy = torch.tensor([0] * 15 + [1] * 5), Spy()
    found, logits, share = held_out(spy, labels, 2)
    assert sorted(found.tolist()) == list(range(20)) and [len(own) for own in spy.seen] == [16] * 5
    assert all(own.isdisjoint(part.tolist()) for own, part in zip(spy.seen, found.split(4), strict=True))
    assert logits[0, :, 0].tolist() == found.tolist() and logits.shape == (2, 20, 2)
    torch.testing.assert_close(share, torch.where(labels[found] == 0, 0.5 / 15, 0.5 / 5))
    monkeypatch.setattr("retroclip.classifiers.stacked.ALL_FOLDS_BELOW", 20)
    assert len(held_out(spy, labels, 2)[0]) == 4
    found, _, share = held_out(spy, torch.tensor([0] * 19 + [1]), 2)
    torch.testing.assert_close(share, torch.where(found == 19, 0.5, 0.5 / 4), msg="a class of one pair counted more")


@pytest.mark.parametrize("classes", [4, 6])
def test_classes_without_pairs_are_stood_for_by_classes_held_out_whole(classes):
    labels, spy = torch.arange(3).repeat_interleave(10), Spy()
    found, _, share = held_out(lambda *rows: spy(*rows).repeat(1, 1, classes // 2), labels, classes)
    assert sorted(found.tolist()) == sorted([*range(30)] * 2)
    torch.testing.assert_close(share[:30].sum(), torch.tensor(3 / classes))
    for own, part in zip(spy.seen[5:], found[30:].split(10), strict=True):
        (label,) = labels[part].unique().tolist()
        assert own == set((labels != label).nonzero()[:, 0].tolist())


def test_a_class_without_rows_is_nobodys_negative():
    weights, _ = head(F.normalize(torch.randn(12, 5), dim=1), torch.tensor([0, 2] * 6), 3)
    assert weights[1].tolist() == [0.0] * 5 and weights[0].abs().min() > 0


def test_a_head_is_neutral_towards_classes_that_it_has_not_seen():
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.0], [40.0, 0.0, -40.0, 0.0]])
    some = level(logits, torch.tensor([True, False, True, False]))
    assert some[:, [1, 3]].tolist() == [[0.0, 0.0]] * 2
    torch.testing.assert_close(some[:, [0, 2]].exp().mean(1), torch.ones(2))
    torch.testing.assert_close(some[:, 0] - some[:, 2], logits[:, 0] - logits[:, 2])


def test_a_class_without_pairs_is_still_found(encoder, task, make_images):
    """Two of three classes have pairs: a head that is sure of one of these would outvote the third."""
    labels, others = torch.tensor([0, 1] * 30), torch.full((200,), 2)
    made = stacked_linear(encoder, task, make_images(labels.tolist()), labels, sharpness=0.0)
    images = make_images(others.tolist(), seed=5)
    assert accuracy(made, images, others) > accuracy(zero_shot(encoder, task), images, others) - 0.15
    assert accuracy(made, make_images(labels.tolist(), seed=6), labels) > 0.9


def test_stack_finds_the_least_cross_entropy_of_balanced_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 300 + [1] * 60)
    first, second = (torch.randn(360, 2, generator=generator) + F.one_hot(labels, 2) * c for c in (0.5, 1.5))
    share = torch.where(labels == 0, 0.5 / 300, 0.5 / 60)

    def loss(alpha, w):
        each = F.cross_entropy(alpha * first + w * second, labels, reduction="none")
        return float(0.5 * each[:300].mean() + 0.5 * each[300:].mean() + (20 / 360) ** 2 * ((alpha - 1) ** 2 + w**2))

    alpha, w = stack(torch.stack([first, second]), labels, share, 20)
    steps = [(a, b) for a in (-0.05, 0.0, 0.05) for b in (-0.05, 0.0, 0.05)]
    assert min(steps, key=lambda step: loss(alpha + step[0], w + step[1])) == (0.0, 0.0)
    assert stack(torch.stack([first, -second]), labels, share, 20)[1] == 0.0
    few = torch.arange(298, 304)
    assert stack(torch.stack([first, second])[:, few], labels[few], torch.full((6,), 1 / 6), 20)[1] < 0.1 < w


@pytest.mark.parametrize("loud", [(0.1, 100.0), (100.0, 0.1), (30.0, 30.0)])
def test_a_head_that_is_too_loud_is_turned_down_and_not_off(loud):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    first, second = (size * (torch.randn(300, 5, generator=generator) + F.one_hot(labels, 5)) for size in loud)

    def loss(alpha, w):
        away = (20 / 300) ** 2 * ((alpha - 1) ** 2 + w**2)
        return float(F.cross_entropy(alpha * first + w * second, labels)) + away

    alpha, w = stack(torch.stack([first, second]), labels, torch.full((300,), 1 / 300), 20)
    assert alpha > 0 and w > 0
    steps = [(a, b) for a in (0.98, 1.0, 1.02) for b in (0.98, 1.0, 1.02)]
    assert min(steps, key=lambda step: loss(alpha * step[0], w * step[1])) == (1.0, 1.0)


def test_a_few_pairs_are_primed_texts(encoder, task, make_images):
    """One pair a class: no head can be asked about a class that it has seen."""
    rows, labels, images = make_images([0, 1, 2]), torch.arange(3), make_images([0, 1, 2] * 5, seed=2)
    made = stacked_linear(encoder, task, rows, labels, sharpness=0.0)
    texts = primed_texts(class_texts(encoder, task), rows, torch.eye(3).bool())
    assert made.chosen["head"] < 0.05
    assert made(images).argmax(1).tolist() == (images @ texts.T).argmax(1).tolist()


def test_one_pair_alone_and_none(encoder, task, make_images):
    rows, images = make_images([1]), make_images([0, 1, 2], seed=2)
    made = stacked_linear(encoder, task, rows, torch.tensor([1]), sharpness=0.0)
    texts = primed_texts(class_texts(encoder, task), rows, torch.eye(3)[[1]].bool())
    torch.testing.assert_close(made(images), 20.0 * images @ texts.T)
    with pytest.raises(RetroclipError, match="no caption names one class of task 'animals'"):
        stacked_linear(encoder, task, torch.zeros(0, 8), torch.zeros(0, dtype=torch.long))
