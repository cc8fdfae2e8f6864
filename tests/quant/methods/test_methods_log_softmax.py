"""Log-sqrt2 and log2 softmax quantizer, traps R6 and R7."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import QuantError
from quant.log_codes import LogQuantizer
from quant.methods.log_softmax_quant import fit_log, log_sqrt2_direct


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("zero", ["strict", "extended"])
def test_parity_form_equals_direct_form_bit_for_bit(bits, zero):
    for scale in (1.0, 0.37, 0.9999, 1e-3):
        quantizer = LogQuantizer(scale, bits, zero)
        codes = torch.arange(quantizer.levels + 1, dtype=torch.int32)
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
    steps=st.sampled_from([1, 2]),
)
def test_codes_are_monotone_and_few(seed, bits, zero, steps):
    values = torch.softmax(torch.randn(400, generator=torch.Generator().manual_seed(seed)) * 5, -1)
    quantizer = fit_log(values, bits, zero, steps)
    ordered = torch.cat([torch.zeros(1), values.sort().values])
    codes = quantizer.encode(ordered)
    assert bool((codes[1:] <= codes[:-1]).all())
    assert int(codes.max()) - int(codes.min()) + 1 <= 2**bits + (zero == "extended")
    assert float(quantizer.decode(codes)[0]) == 0.0
    assert int(quantizer.encode(torch.tensor([quantizer.scale]))) == 0
    twin = np.round(-steps * np.log2(np.maximum(ordered.double().numpy(), 1e-300) / quantizer.scale))
    twin = np.clip(twin, 0, quantizer.levels)
    exact = -steps * np.log2(np.maximum(ordered.double().numpy(), 1e-300) / quantizer.scale)
    clear = np.abs(np.abs(np.modf(exact)[0]) - 0.5) > 1e-4
    assert np.array_equal(codes.numpy()[clear], twin[clear])


def test_idempotent():
    quantizer = LogQuantizer(0.8, 4)
    values = torch.softmax(torch.randn(8, 50, generator=torch.Generator().manual_seed(0)) * 3, -1)
    once = quantizer.decode(quantizer.encode(values))
    assert torch.equal(quantizer.decode(quantizer.encode(once)), once)


@pytest.mark.parametrize("steps", [1, 2])
def test_codes_change_exactly_at_the_thresholds(steps):
    """The largest float below a border and the smallest above it, by logarithms of 60 digits."""
    from decimal import Decimal, localcontext

    quantizer = LogQuantizer(1.0, 5, steps=steps)
    with localcontext() as context:
        context.prec = 60
        for code in range(quantizer.levels):
            border = np.float32(2.0 ** (-(code + 0.5) / steps))
            for value in (np.nextafter(border, np.float32(0)), border, np.nextafter(border, np.float32(1))):
                exact = -steps * Decimal(float(value)).ln() / Decimal(2).ln()
                assert int(quantizer.encode(torch.tensor(value))) == int(exact.to_integral_value())


def test_strict_mode_spends_one_level_on_zero_and_row_sums_are_near_one():
    attention = torch.softmax(torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(3)) * 2, -1)
    strict, extended = fit_log(attention, 4, "strict"), fit_log(attention, 4, "extended")
    assert extended.levels == strict.levels + 1 == 16
    sums = strict.decode(strict.encode(attention)).sum(-1).mean()
    assert 0.8 < float(sums) < 1.2


def test_all_zero_map_and_bad_scale():
    quantizer = fit_log(torch.zeros(10), 4)
    assert torch.equal(quantizer.decode(quantizer.encode(torch.zeros(10))), torch.zeros(10))
    with pytest.raises(QuantError, match="positive"):
        LogQuantizer(0.0, 4)
    with pytest.raises(QuantError, match="2 to 16 bits"):
        LogQuantizer(1.0, 4, steps=3)
