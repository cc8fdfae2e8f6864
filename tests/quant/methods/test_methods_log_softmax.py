"""Log-sqrt2 softmax quantizer, traps R6 and R7."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import QuantError
from quant.methods.log_softmax_quant import (
    LogSqrt2Quantizer,
    fit_log_sqrt2,
    integer_attention_product,
    log_sqrt2_direct,
)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("zero", ["strict", "extended"])
def test_parity_form_equals_direct_form_bit_for_bit(bits, zero):
    for scale in (1.0, 0.37, 0.9999, 1e-3):
        quantizer = LogSqrt2Quantizer(scale, bits, zero)
        codes = torch.arange(quantizer.levels + 1, dtype=torch.int16)
        ours, direct = quantizer.decode(codes), log_sqrt2_direct(codes, quantizer)
        normal = (ours == 0) | (ours >= 2.0**-110)  # far below lie float32 subnormals
        assert torch.equal(ours[normal], direct[normal])
        assert int(normal.sum()) > min(2**bits - 2, 200)
        twin = np.float64(np.float32(scale)) * 2.0 ** (-codes.numpy() / 2)
        twin[-1] = 0
        np.testing.assert_allclose(quantizer.decode(codes).numpy(), twin, rtol=2e-7, atol=1e-44)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([3, 4, 6, 8]),
    zero=st.sampled_from(["strict", "extended"]),
)
def test_codes_are_monotone_and_few(seed, bits, zero):
    values = torch.softmax(torch.randn(400, generator=torch.Generator().manual_seed(seed)) * 5, -1)
    quantizer = fit_log_sqrt2(values, bits, zero)
    ordered = torch.cat([torch.zeros(1), values.sort().values])
    codes = quantizer.encode(ordered)
    assert bool((codes[1:] <= codes[:-1]).all())
    assert int(codes.max()) - int(codes.min()) + 1 <= 2**bits + (zero == "extended")
    assert float(quantizer.decode(codes)[0]) == 0.0
    assert int(quantizer.encode(torch.tensor([quantizer.scale]))) == 0
    twin = np.round(-2 * np.log2(np.maximum(ordered.double().numpy(), 1e-300) / quantizer.scale))
    twin = np.clip(twin, 0, quantizer.levels)
    exact = -2 * np.log2(np.maximum(ordered.double().numpy(), 1e-300) / quantizer.scale)
    clear = np.abs(np.abs(np.modf(exact)[0]) - 0.5) > 1e-4
    assert np.array_equal(codes.numpy()[clear], twin[clear])


def test_idempotent():
    quantizer = LogSqrt2Quantizer(0.8, 4)
    values = torch.softmax(torch.randn(8, 50, generator=torch.Generator().manual_seed(0)) * 3, -1)
    once = quantizer.decode(quantizer.encode(values))
    assert torch.equal(quantizer.decode(quantizer.encode(once)), once)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("zero", ["strict", "extended"])
def test_two_accumulators_equal_the_float_product(bits, zero):
    g = torch.Generator().manual_seed(bits)
    values = torch.randint(-128, 128, (2, 3, 19, 5), generator=g)
    attention = torch.softmax(torch.randn(2, 3, 7, 19, generator=g) * 4, -1)
    quantizer = fit_log_sqrt2(attention, bits, zero)
    codes = quantizer.encode(attention)
    if bits < 8:
        ours, _ = integer_attention_product(codes, values, quantizer)
    else:  # 2^128 does not fit int64: the widest exact accumulator is refused, not wrapped
        with pytest.raises(QuantError, match="bits"):
            integer_attention_product(codes, values, quantizer)
        return
    expected = quantizer.decode(codes).double() @ values.double()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("bits", "zero"), [(3, "strict"), (4, "strict"), (4, "extended"), (6, "strict")])
def test_two_accumulators_hold_the_exact_integers(bits, zero):
    """Against Python's unbounded integers, every code in use: no bit is lost before the one multiply."""
    quantizer = LogSqrt2Quantizer(0.7, bits, zero)
    g = torch.Generator().manual_seed(bits)
    codes = torch.arange(quantizer.levels + 1).repeat(3)[
        torch.randperm(3 * (quantizer.levels + 1), generator=g)
    ]
    codes = codes.reshape(3, -1).to(torch.int16)
    values = torch.randint(-128, 128, (codes.shape[1], 2), generator=g)
    ours, shift = integer_attention_product(codes, values, quantizer)
    scale, root = float(np.float32(0.7)), float(np.float32(math.sqrt(2)))
    for row in range(3):
        for column in range(2):
            sums = [0, 0]
            for code, value in zip(codes[row].tolist(), values[:, column].tolist(), strict=True):
                if code < quantizer.levels:
                    sums[code % 2] += value * 2 ** (shift - (code + 1) // 2)
            assert float(ours[row, column]) == scale * 2.0**-shift * (float(sums[0]) + root * float(sums[1]))


def test_strict_mode_spends_one_level_on_zero_and_row_sums_are_near_one():
    attention = torch.softmax(torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(3)) * 2, -1)
    strict, extended = fit_log_sqrt2(attention, 4, "strict"), fit_log_sqrt2(attention, 4, "extended")
    assert extended.levels == strict.levels + 1 == 16
    sums = strict.decode(strict.encode(attention)).sum(-1).mean()
    assert 0.8 < float(sums) < 1.2


def test_all_zero_map_and_bad_scale():
    quantizer = fit_log_sqrt2(torch.zeros(10), 4)
    assert torch.equal(quantizer.decode(quantizer.encode(torch.zeros(10))), torch.zeros(10))
    with pytest.raises(QuantError, match="positive"):
        LogSqrt2Quantizer(0.0, 4)
