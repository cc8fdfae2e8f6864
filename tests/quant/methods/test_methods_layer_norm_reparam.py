"""Reparameterization traps R1, R2, R4, R5, R10 against float64 numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import QuantError
from quant.methods.dual_clipping import affine_grid
from quant.methods.layer_norm_reparam import (
    channel_to_layer,
    fold_into_consumer,
    fold_into_norm,
    map_back,
    map_forward,
    refuse_tied,
)


def grid_of(x, bits):
    return affine_grid(x.amin(0).double(), x.amax(0).double(), bits)


def numpy_layer_norm(x, gamma, beta, eps=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([2, 3, 4, 6, 8]),
    target=st.sampled_from(["mean", "pow2"]),
)
def test_codes_equal_and_function_unchanged(seed, bits, target):
    g = torch.Generator().manual_seed(seed)
    channels = 24
    raw = torch.randn(64, channels, generator=g, dtype=torch.float64)
    gamma = torch.rand(channels, generator=g, dtype=torch.float64) * 3 - 0.5
    beta = torch.randn(channels, generator=g, dtype=torch.float64)
    consumers = [torch.randn(7, channels, generator=g, dtype=torch.float64) for _ in range(3)]
    x = torch.from_numpy(numpy_layer_norm(raw.numpy(), gamma.numpy(), beta.numpy()))
    scale, zero = grid_of(x, bits)
    rep = channel_to_layer(scale, zero, bits, target=target)
    assert rep.zero == round(rep.zero)
    new_gamma, new_beta = fold_into_norm(gamma, beta, rep)
    moved = torch.from_numpy(numpy_layer_norm(raw.numpy(), new_gamma.numpy(), new_beta.numpy()))
    torch.testing.assert_close(map_back(moved, rep), x, rtol=1e-11, atol=1e-11)
    for weight in consumers:
        new_weight, new_bias = fold_into_consumer(weight, None, rep)
        torch.testing.assert_close(moved @ new_weight.T + new_bias, x @ weight.T, rtol=1e-11, atol=1e-11)
    floored = (rep.ratio * rep.scale).double()
    channel_codes = np.clip(np.round(x.numpy() / floored.numpy()) + zero.numpy(), 0, 2**bits - 1)
    layer_codes = np.clip(np.round(map_forward(x, rep).numpy() / rep.scale) + rep.zero, 0, 2**bits - 1)
    # x/s + r2 and (x + s r2)/s differ by one rounding of float64: ties may move, nothing else may
    ties = np.abs(np.abs(np.modf(x.numpy() / floored.numpy())[0]) - 0.5) < 1e-9
    assert np.array_equal(channel_codes[~ties], layer_codes[~ties])


def test_fractional_zero_point_breaks_code_equality():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(512, 48, generator=g, dtype=torch.float64) * torch.rand(48, generator=g) + torch.randn(
        48, generator=g
    )
    scale, zero = grid_of(x, 4)
    whole = channel_to_layer(scale, zero, 4)
    partial = channel_to_layer(scale, zero, 4, target_zero="fractional")
    reference = torch.clamp(torch.round(x / scale) + zero, 0, 15)
    values = (reference - zero) * scale

    def mapped(rep):
        codes = torch.clamp(torch.round(map_forward(x, rep) / rep.scale) + rep.zero, 0, 15)
        return map_back((codes - rep.zero) * rep.scale, rep)

    torch.testing.assert_close(mapped(whole), values, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(mapped(partial), values, rtol=1e-3, atol=1e-3)


def test_dead_channels_keep_ratio_positive_and_bounded():
    scale = torch.tensor([0.0, 1.0, 2.0, 0.0])
    rep = channel_to_layer(scale, torch.zeros(4), 4)
    low, high = rep.ratio_range
    assert low > 0
    assert high <= 4
    assert torch.isfinite(fold_into_norm(torch.ones(4), None, rep)[0]).all()
    rep = channel_to_layer(torch.zeros(4), torch.zeros(4), 4)
    assert torch.equal(rep.ratio, torch.ones(4, dtype=torch.float64))


def test_rms_norm_symmetric_needs_no_bias_and_asymmetric_is_refused():
    g = torch.Generator().manual_seed(1)
    x, weight, gamma = (
        torch.randn(20, 8, generator=g),
        torch.randn(5, 8, generator=g),
        torch.rand(8, generator=g) + 0.1,
    )
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    scale = (rms * gamma).abs().amax(0) / 7
    rep = channel_to_layer(scale, torch.full((8,), 8.0), 4, shiftable=False)
    new_gamma, new_beta = fold_into_norm(gamma, None, rep)
    assert new_beta is None
    new_weight, new_bias = fold_into_consumer(weight, None, rep)
    assert new_bias is None
    torch.testing.assert_close(
        (rms * new_gamma) @ new_weight.T, (rms * gamma) @ weight.T, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(QuantError, match="one common zero point"):
        channel_to_layer(scale, torch.arange(8.0), 4, shiftable=False)
    # with the bias added, an asymmetric grid is exact too
    rep = channel_to_layer(scale, torch.arange(8.0), 4)
    new_gamma, new_beta = fold_into_norm(gamma, None, rep)
    new_weight, new_bias = fold_into_consumer(weight, None, rep)
    torch.testing.assert_close(
        (rms * new_gamma + new_beta) @ new_weight.T + new_bias, (rms * gamma) @ weight.T, rtol=1e-3, atol=1e-4
    )


def test_tied_weights_are_refused():
    embedding = torch.nn.Parameter(torch.ones(4, 3))
    with pytest.raises(QuantError, match="tied to embed"):
        refuse_tied("lm_head", embedding, {"embed": embedding, "lm_head": embedding})
    refuse_tied("lm_head", embedding, {"embed": torch.ones(4, 3), "lm_head": embedding})
