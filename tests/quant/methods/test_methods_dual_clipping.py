"""Dual clipping, trap R8."""

import torch

from quant.methods.dual_clipping import (
    DualClippingOptions,
    affine_grid,
    channel_mse_range,
    clip_range,
    fake_quantize,
    learn_dual_clipping,
    output_error,
)


def outliers(seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1500, 12, generator=g)
    x[::300, ::3] *= 12
    x[:, 4] += 9  # a range above zero
    x[:, 5] -= 9  # and one below
    x[:, 6] = 0  # a dead channel
    return x, torch.randn(8, 12, generator=g)


def output_loss(x, weight, low, high, bits):
    return float(((x - fake_quantize(x, low, high, bits)) @ weight.T).square().sum(1).mean())


def test_learned_ranges_lower_the_output_error_and_only_narrow():
    x, weight = outliers()
    clipped = learn_dual_clipping(x, weight, 4, DualClippingOptions(steps=200))
    low, high = x.amin(0), x.amax(0)
    assert clipped.loss_after < 0.9 * clipped.loss_before
    before, after = output_loss(x, weight, low, high, 4), output_loss(x, weight, clipped.low, clipped.high, 4)
    assert after < before
    assert bool((clipped.low >= low - 1e-6).all())
    assert bool((clipped.high <= high + 1e-6).all())
    assert torch.isfinite(clipped.low).all()
    assert bool((clipped.low <= clipped.high).all())


def test_starts_at_min_max_and_never_worse():
    x, weight = outliers(1)
    start = learn_dual_clipping(x, weight, 4, DualClippingOptions(steps=0))
    assert torch.equal(start.low, x.amin(0))
    assert torch.equal(start.high, x.amax(0))
    uniform = torch.rand(500, 12, generator=torch.Generator().manual_seed(2))
    fine = learn_dual_clipping(uniform, weight, 8, DualClippingOptions(steps=30, learning_rate=1.0))
    assert fine.loss_after <= fine.loss_before


def test_ranges_off_zero_shrink_towards_their_centre():
    low, high = torch.tensor([-2.0, 3.0, -9.0]), torch.tensor([4.0, 5.0, -7.0])
    half = torch.full((3,), 0.5)
    new_low, new_high = clip_range(low, high, half, half)
    assert torch.allclose(new_low, torch.tensor([-1.0, 3.5, -8.5]))
    assert torch.allclose(new_high, torch.tensor([2.0, 4.5, -7.5]))


def test_grid_covers_its_range():
    low, high = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, 0.0, 7.0])
    scale, zero = affine_grid(low, high, 4)
    assert torch.equal(zero, zero.round())
    live = scale > 0
    assert bool(((-zero * scale - low).abs() <= scale / 2 + 1e-6)[live].all())


def test_channel_least_squares_range_beats_min_max_on_every_channel():
    x, weight = outliers(3)
    low, high = channel_mse_range(x, 4)
    plain = (fake_quantize(x, x.amin(0), x.amax(0), 4) - x).square().mean(0)
    ours = (fake_quantize(x, low, high, 4) - x).square().mean(0)
    assert bool((ours <= plain + 1e-9).all())
    assert float(ours[7]) < 0.75 * float(plain[7])  # a Gaussian channel
    learned = learn_dual_clipping(x, weight, 4, DualClippingOptions(steps=50), (low, high))
    assert learned.loss_after <= learned.loss_before


def test_gradients_by_hand_are_those_of_autograd():
    x, weight = outliers(3)
    gram = weight.T @ weight
    low, high = 0.6 * x.amin(0), 0.7 * x.amax(0)
    low.requires_grad_()
    high.requires_grad_()
    error = x - fake_quantize(x, low, high, 4)
    loss = ((error @ gram) * error).sum() / len(x)
    loss.backward()
    ours, to_low, to_high = output_error(x, gram, (low.detach(), high.detach()), 4)
    torch.testing.assert_close(ours, loss.detach())
    torch.testing.assert_close(to_low, low.grad, rtol=1e-3, atol=1e-3 * float(low.grad.abs().max()))
    torch.testing.assert_close(to_high, high.grad, rtol=1e-3, atol=1e-3 * float(high.grad.abs().max()))
    assert float(to_low.abs().max()) > 0.1
