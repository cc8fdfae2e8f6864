"""The quantizer under training against autograd of its formula, and the random bytes that drop elements."""

import pytest
import torch

from quant.activation import ActQuantizer
from quant.methods.learned_scale import LearnedScale, drop_mix, live_elements


def by_formula(x, scale, grid, live):
    """Straight-through codes as they are written down, in float64."""
    low, high = -grid.zero_point, 2**grid.bits - 1 - grid.zero_point
    ratio = x / scale
    value = (ratio + (ratio.round() - ratio).detach()).clamp(low, high) * scale
    return torch.where(live, value, x)


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("zero", [0, 3])
def test_value_and_gradients_are_those_of_the_formula(drop, zero):
    draw = torch.Generator().manual_seed(4)
    grid = ActQuantizer(3, scale=0.4, zero_point=zero)
    values = torch.randn(5, 7, 3, generator=draw).double()
    weights = torch.randn(5, 7, 3, generator=draw).double()
    live = live_elements(values.shape, drop, torch.Generator().manual_seed(9))
    found = []
    for ours in (True, False):
        x, scale = values.clone().requires_grad_(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        quantizer = LearnedScale(grid, scale, drop, torch.Generator().manual_seed(9))
        y = quantizer(x) if ours else by_formula(x, scale, grid, live)
        found.append((y.detach(), *torch.autograd.grad((y * weights).sum(), (x, scale))))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_gradients_that_nobody_asks_for_are_left_out():
    grid = ActQuantizer(4, scale=0.1, zero_point=2)
    scale = torch.tensor(0.1, requires_grad=True)
    LearnedScale(grid, scale, 0.0, None)(torch.ones(3)).sum().backward()
    assert scale.grad is not None
    x = torch.full((3,), 0.5, requires_grad=True)
    LearnedScale(grid, torch.tensor(0.1), 0.0, None)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(3))


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_every_element_is_dropped_as_often_as_asked_and_on_its_own(probability):
    live = live_elements(torch.Size((8, 40001)), probability, torch.Generator().manual_seed(1))
    share = live.double().reshape(-1)[: 8 * 40000].reshape(-1, 8).mean(0)  # by byte of the word it came from
    assert (share - (1 - probability)).abs().max() < 0.01
    both = (live[:, 1:] & live[:, :-1]).double().mean()
    assert both == pytest.approx((1 - probability) ** 2, abs=0.01)


def test_the_seed_decides_what_is_dropped():
    a, b = torch.zeros(4, 9), torch.ones(4, 9)
    first, again, other = (drop_mix(a, b, 0.5, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
