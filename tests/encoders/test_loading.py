import signal

import pytest
import torch
from torch import nn

from retroclip.encoders.loading import SkipRandom


@pytest.fixture
def alarm():
    """Ends a test that doesn't end."""

    def ring(*_):
        raise TimeoutError("still drawing")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("bounds", [(-2, 2), (0.5, 0.6)], ids=["likely", "unlikely"])
@pytest.mark.parametrize("left", [0.0, 1e9, float("nan")])
def test_a_draw_that_is_repeated_until_it_lies_within_bounds_ends(left, bounds, alarm):
    """Whatever was in memory: torch's trunc_normal_ draws again what lies outside."""
    weight = nn.Parameter(torch.full((64, 64), left))
    with SkipRandom():
        nn.init.trunc_normal_(weight, a=bounds[0], b=bounds[1])
    assert weight.isnan().all() or (weight.abs() <= 2).all()


@pytest.mark.parametrize("layer", [lambda: nn.Linear(8, 8), lambda: nn.Conv2d(3, 8, 3), lambda: nn.Embedding(8, 8)])
def test_weights_arent_drawn(layer):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with SkipRandom():
        layer()
    assert torch.equal(torch.random.get_rng_state(), before)
    layer()
    assert not torch.equal(torch.random.get_rng_state(), before)
