"""Both directions' log-partitions against plain logsumexps, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.training import partition


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 16, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def plain(u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    logits = scale * u @ v.T
    return logits.logsumexp(dim=1).mean() + logits.logsumexp(dim=0).mean()


def value_and_gradients(function, *inputs: Tensor) -> list[Tensor]:
    leaves = [value.clone().requires_grad_() for value in inputs]
    value = function(*leaves)
    (3.0 * value).backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("rows", [(9, 9), (7, 5), (1, 3)])
def test_value_and_gradients_are_those_of_two_logsumexps(monkeypatch, rows, block):
    monkeypatch.setattr(partition, "BLOCK", block)
    given = unit(rows[0], 1), unit(rows[1], 2), torch.tensor(20.0, dtype=torch.float64)
    ours = value_and_gradients(partition.log_partitions, *given)
    torch.testing.assert_close(ours, value_and_gradients(plain, *given), rtol=1e-10, atol=1e-12)


def test_only_what_needs_a_gradient_gets_one():
    u, v = unit(6, 1).requires_grad_(), unit(6, 2)
    partition.log_partitions(u, v, 7.0).backward()
    expected = torch.autograd.grad(plain(u, v, torch.tensor(7.0)), u)[0]
    torch.testing.assert_close(u.grad, expected)
    assert v.grad is None


def test_a_scale_of_one_element_keeps_its_shape():
    """Some of open_clip's models have a logit scale of shape (1,)."""
    scale = torch.tensor([7.0], requires_grad=True)
    partition.log_partitions(unit(6, 1, torch.float32), unit(6, 2, torch.float32), scale).backward()
    assert scale.grad is not None and scale.grad.shape == (1,)


def test_a_column_far_below_the_largest_logit_keeps_its_gradient():
    """At scale 100 a fp32 exponential shifted by another row's largest logit can be 0 for a whole column."""
    u = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0]]), dim=-1)
    v = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.2, 0.1]]), dim=-1)
    scale = torch.tensor(100.0)
    ours, expected = (value_and_gradients(f, u, v, scale) for f in (partition.log_partitions, plain))
    assert torch.isfinite(ours[0])
    torch.testing.assert_close(ours, expected)


def test_products_in_bfloat16_are_near():
    given = unit(300, 1, torch.float32), unit(300, 2, torch.float32), torch.tensor(20.0)
    exact = value_and_gradients(partition.log_partitions, *given)
    rounded = value_and_gradients(lambda *i: partition.log_partitions(*i, torch.bfloat16), *given)
    assert rounded[1].dtype == torch.float32
    assert float(rounded[0]) == pytest.approx(float(exact[0]), abs=5e-3)
    for ours, expected in zip(rounded[1:], exact[1:], strict=True):
        assert float((ours - expected).norm() / expected.norm()) < 0.02
