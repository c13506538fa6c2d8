"""Every loss against a loop in float64 and against the identities it promises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from retroclip.training import losses


def embeddings(rows: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=-1)


U, V = embeddings(6, seed=1), embeddings(6, seed=2)
SCALE = 7.0


def loop_multi_positive(u, v, same, scale, weights=None):
    """−Σ_i w_i/Σw Σ_{k∈P(i)} w_k/Σ_P w log p(k|i), written out."""
    weights = [1.0] * len(u) if weights is None else weights
    total = 0.0
    for a, b in ((u, v), (v, u)):
        for i in range(len(a)):
            exps = [math.exp(scale * float(a[i] @ b[j])) for j in range(len(b))]
            mine = [k for k in range(len(b)) if same(i, k)]
            mass = sum(weights[k] for k in mine)
            row = sum(weights[k] / mass * math.log(exps[k] / sum(exps)) for k in mine)
            total -= 0.5 * weights[i] / sum(weights) * row
    return total


def test_clip_loss_equals_a_loop():
    assert losses.clip_loss(U, V, SCALE).item() == pytest.approx(loop_multi_positive(U, V, lambda i, k: i == k, SCALE))


def test_class_aware_loss_equals_a_loop_with_positives_in_the_denominator():
    labels = torch.tensor([0, 1, 0, -1, -1, 1])
    same = lambda i, k: i == k or (labels[i] == labels[k] and labels[i] >= 0)  # noqa: E731
    assert losses.class_aware_loss(U, V, labels, SCALE).item() == pytest.approx(loop_multi_positive(U, V, same, SCALE))


@pytest.mark.parametrize("labels", [[3, 1, 4, 15, 9, 2], [-1] * 6])
def test_class_aware_loss_is_the_clip_loss_for_distinct_labels(labels):
    ours = losses.class_aware_loss(U, V, torch.tensor(labels), SCALE)
    torch.testing.assert_close(ours, losses.clip_loss(U, V, SCALE))


def test_weights_scale_rows_and_positives_and_a_weight_of_nothing_removes_the_pair_as_a_row():
    labels, weights = torch.tensor([0, 1, 0, 2, 2, 1]), torch.tensor([1.0, 0.5, 0.25, 2.0, 1.0, 1.0]).double()
    same = lambda i, k: labels[i] == labels[k]  # noqa: E731
    ours = losses.multi_positive_loss(U, V, losses.positives(labels), SCALE, weights)
    assert ours.item() == pytest.approx(loop_multi_positive(U, V, same, SCALE, weights.tolist()))
    one = torch.tensor([1.0, 0, 0, 0, 0, 0]).double()
    row = -0.5 * ((SCALE * U @ V.T).log_softmax(1)[0, 0] + (SCALE * V @ U.T).log_softmax(1)[0, 0])
    alone = losses.multi_positive_loss(U, V, losses.positives(torch.arange(6)), SCALE, one)
    torch.testing.assert_close(alone, row)


def test_one_class_only_is_finite_and_has_a_gradient():
    u = U.clone().requires_grad_()
    losses.class_aware_loss(u, V, torch.zeros(6, dtype=torch.long), SCALE).backward()
    assert torch.isfinite(u.grad).all() and u.grad.abs().sum() > 0


def test_text_positives_are_the_general_form_of_the_class_aware_loss():
    texts = embeddings(3, seed=5)[[0, 1, 0, 2, 2, 1]]
    same = losses.text_positives(texts, 0.9)
    torch.testing.assert_close(same, losses.positives(torch.tensor([0, 1, 0, 2, 2, 1])))


def test_unified_loss_equals_a_loop_per_sample():
    classes, captions = embeddings(5, seed=3), embeddings(2, seed=4)
    labels = torch.tensor([4, -1, 0, 0, -1, 2])
    expected, own = 0.0, 0
    for image, label in zip(U, labels.tolist(), strict=True):
        texts, target = (classes, label) if label >= 0 else (captions, own)
        own += label < 0
        expected -= (SCALE * texts @ image).log_softmax(0)[target].item() / len(U)
    assert losses.unified_loss(U, labels, classes, captions, SCALE).item() == pytest.approx(expected)


def test_unified_loss_reduces_to_its_two_tasks():
    none, labels = torch.zeros(0, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    classes = embeddings(3, seed=3)
    only = losses.unified_loss(U, labels, classes, none, SCALE)
    torch.testing.assert_close(only, losses.classification_loss(U, classes, labels, SCALE))
    both_ways = losses.unified_loss(U, torch.full((6,), -1), classes, V, SCALE, symmetric=True)
    torch.testing.assert_close(both_ways, losses.clip_loss(U, V, SCALE))
    one_each = losses.unified_loss(U, torch.arange(6), V, none, SCALE, symmetric=True)
    torch.testing.assert_close(one_each, losses.clip_loss(U, V, SCALE))


def test_unified_loss_wants_a_caption_for_each_unlabelled_sample():
    with pytest.raises(ValueError, match="6 samples have no label but there are 2 captions"):
        losses.unified_loss(U, torch.full((6,), -1), V, V[:2], SCALE)


def test_reco_loss_is_three_bidirectional_terms():
    ru, rv = embeddings(6, seed=6), embeddings(6, seed=7)
    parts = losses.clip_loss(ru, rv, SCALE) + losses.clip_loss(ru, V, SCALE) + losses.clip_loss(U, rv, SCALE)
    torch.testing.assert_close(losses.reco_loss(ru, rv, U, V, SCALE), parts)


def test_siglip_loss_equals_a_loop_and_takes_several_positives():
    labels = torch.tensor([0, 1, 0, -1, -1, 1])
    expected = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if i == j or (labels[i] == labels[j] and labels[i] >= 0) else -1
            expected += math.log1p(math.exp(-sign * (SCALE * float(U[i] @ V[j]) - 3.0))) / 6
    assert losses.siglip_loss(U, V, SCALE, -3.0, labels).item() == pytest.approx(expected)


def test_sigmoid_loss_counts_pairs_by_the_smaller_weight():
    positive = torch.rand(len(U), len(U), generator=torch.Generator().manual_seed(3)) < 0.3
    weights = torch.linspace(0, 1, len(U))
    expected = 0.0
    for i in range(len(U)):
        for j in range(len(U)):
            sign = 1 if positive[i, j] else -1
            cell = math.log(1 + math.exp(-sign * (SCALE * float(U[i] @ V[j]) - 3.0)))
            expected += cell * (min(float(weights[i]), float(weights[j])) if positive[i, j] else 1.0) / len(U)
    assert losses.sigmoid_loss(U, V, positive, SCALE, -3.0, weights).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_bias_makes_the_mean_probability_the_share_of_positives():
    logits = 100 * U @ V.T
    for share in (torch.eye(len(U), dtype=torch.bool), torch.ones(len(U), len(U), dtype=torch.bool).tril()):
        bias = losses.balanced_bias(logits, share)
        assert torch.sigmoid(logits.double() + bias).mean().item() == pytest.approx(share.float().mean().item(), 1e-4)


def test_distillation_is_nought_for_the_teacher_itself_and_positive_otherwise():
    texts = embeddings(9, seed=8)
    assert losses.distillation_loss(U, U, texts, SCALE).item() == pytest.approx(0.0, abs=1e-12)
    p, q = (SCALE * V @ texts.T).softmax(1), (SCALE * U @ texts.T).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses.distillation_loss(U, V, texts, SCALE), kl)
    first = torch.tensor([1.0, 0, 0, 0, 0, 0]).double()
    kl = (p * (p / q).log()).sum(1)[0] / 6
    torch.testing.assert_close(losses.distillation_loss(U, V, texts, SCALE, weights=first), kl)
