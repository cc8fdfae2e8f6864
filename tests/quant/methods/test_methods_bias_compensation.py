"""Bias compensation: the closed form, its identity and traps B1, B2, B5, B7."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import QuantError
from quant.methods.bias_compensation import (
    MeanErrorAccumulator,
    data_free_bias,
    fit_bias,
    mean_after_batch_norm,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(9, 5), (7, 4, 6), (5, 3, 4, 4)]),
    positional=st.booleans(),
    sizes=st.sampled_from([(100,), (2, 100), (1, 3, 100)]),
)
def test_identity_and_minimum_over_ragged_batches(seed, shape, positional, sizes):
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(shape, generator=g)
    q = y + 0.3 * torch.randn(shape, generator=g) + 0.5 * torch.randn(shape[1:], generator=g)
    keep = (1,) if len(shape) == 4 else ((-2, -1) if positional and len(shape) == 3 else (-1,))
    accumulator, start = MeanErrorAccumulator(keep), 0
    for size in sizes:
        stop = min(start + size, shape[0])
        accumulator.update(y[start:stop], q[start:stop])
        start = stop
    fitted = accumulator.solve("none")
    kept = {axis % len(shape) for axis in keep}
    axes = tuple(a for a in range(len(shape)) if a not in kept)
    twin = (y.double() - q.double()).numpy().mean(axes)
    np.testing.assert_allclose(fitted.mean.numpy(), twin, rtol=1e-10, atol=1e-12)
    assert fitted.mse_before - fitted.mse_after == pytest.approx(float((twin**2).mean()), rel=1e-9, abs=1e-14)
    view = [shape[a] if a in kept else 1 for a in range(len(shape))]
    after = ((y - q).double() - fitted.mean.reshape(view)).square().mean()
    assert fitted.mse_after == pytest.approx(float(after), rel=1e-5)  # bias itself is kept in float32
    refit = fit_bias(y, q + fitted.bias.reshape(view), keep, "none")
    assert float(refit.mean.abs().max()) < 1e-6  # B5: nothing left to correct


@pytest.mark.parametrize("samples", [4, 8, 32, 128])
def test_shrunk_bias_is_safe_out_of_sample(samples):
    """B2: for few samples plain B* raises the held-out error and the shrunk one does not."""
    plain, shrunk, none = [], [], []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        mean = 0.05 * torch.randn(64, generator=g)
        error = mean + 0.5 * torch.randn(samples, 64, generator=g)
        held = mean + 0.5 * torch.randn(400, 64, generator=g)
        zero = torch.zeros_like(error)
        none.append(float(held.square().mean()))
        plain.append(float((held - fit_bias(error, zero, (1,), "none").bias).square().mean()))
        shrunk.append(float((held - fit_bias(error, zero, (1,), "layer").bias).square().mean()))
    assert np.mean(shrunk) <= 1.01 * np.mean(none)
    if samples <= 32:
        assert np.mean(plain) > np.mean(none)
        assert np.mean(shrunk) < np.mean(plain)


def test_variance_counts_samples_not_tokens():
    """Tokens that share one sample's error carry one sample of evidence."""
    g = torch.Generator().manual_seed(0)
    per_sample = torch.randn(16, 1, 8, generator=g)
    error = per_sample.expand(16, 200, 8).contiguous()
    fitted = fit_bias(error, torch.zeros_like(error), (-1,))
    expected = per_sample[:, 0].double().var(0, unbiased=True) / 16
    torch.testing.assert_close(fitted.variance, expected, rtol=1e-9, atol=1e-12)


def test_masked_means_ignore_padding_and_other_lengths_run():
    g = torch.Generator().manual_seed(1)
    y, q = torch.randn(6, 10, 4, generator=g), torch.randn(6, 10, 4, generator=g)
    mask = torch.ones(6, 10, 1)
    mask[:, 7:] = 0
    y_bad = y.clone()
    y_bad[:, 7:] = 1e6
    accumulator = MeanErrorAccumulator((-1,))
    accumulator.update(y_bad, q, mask)
    torch.testing.assert_close(
        accumulator.solve("none").mean, fit_bias(y[:, :7], q[:, :7], (-1,), "none").mean
    )
    bias = accumulator.solve().bias
    for length in (1, 9, 11):
        assert (torch.zeros(2, length, 4) + bias).shape == (2, length, 4)


def test_one_sample_gives_no_shrunk_bias():
    y = torch.ones(1, 5)
    assert float(fit_bias(y, torch.zeros(1, 5), (-1,)).bias.abs().max()) == 0
    assert torch.equal(fit_bias(y, torch.zeros(1, 5), (-1,), "none").bias, torch.ones(5))


def test_errors():
    with pytest.raises(QuantError, match="no samples"):
        MeanErrorAccumulator((-1,)).solve()
    with pytest.raises(QuantError, match="axis 0"):
        fit_bias(torch.ones(2, 3), torch.ones(2, 3), (0,))


@pytest.mark.parametrize("groups", [1, 3])
def test_data_free_form_equals_the_mean_output_error(groups):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 6, 3, 3, generator=g) + torch.randn(1, 6, 1, 1, generator=g)
    x = x - x.mean((0, 2, 3), keepdim=True) + x.mean((0, 2, 3), keepdim=True)
    weight = torch.randn(9, 6 // groups, 3, 3, generator=g)
    rounded = torch.round(weight * 2) / 2
    bias = data_free_bias(weight, rounded, x.mean((0, 2, 3)))
    conv = torch.nn.functional.conv2d
    error = (conv(x, weight, groups=groups) - conv(x, rounded, groups=groups)).mean((0, 2, 3))
    torch.testing.assert_close(bias, error, rtol=0.05, atol=0.05)
    linear, small = torch.randn(4, 6, generator=g), torch.randn(300, 6, generator=g)
    exact = (small @ (linear - linear.round()).T).mean(0)
    torch.testing.assert_close(
        data_free_bias(linear, linear.round(), small.mean(0)), exact, rtol=1e-5, atol=1e-5
    )


def test_clipped_normal_means():
    g = torch.Generator().manual_seed(3)
    beta, gamma = torch.tensor([-1.0, 0.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, -1.5, 0.0])
    draws = beta + gamma * torch.randn(400_000, 4, generator=g)
    torch.testing.assert_close(
        mean_after_batch_norm(beta, gamma, relu=True).float(), draws.relu().mean(0), rtol=0.01, atol=0.01
    )
    torch.testing.assert_close(
        mean_after_batch_norm(beta, gamma, relu=True, ceiling=1.5).float(),
        draws.clamp(0, 1.5).mean(0),
        rtol=0.01,
        atol=0.01,
    )
    assert torch.equal(mean_after_batch_norm(beta, gamma, relu=False), beta.double())
