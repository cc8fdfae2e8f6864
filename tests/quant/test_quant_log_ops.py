"""Products of log codes against unbounded integers and float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import log_ops as _log_ops  # noqa: F401  registers torch.ops.hwsim
from quant.log_codes import LogQuantizer

hwsim = torch.ops.hwsim
FORMS = [(7, 2), (8, 2), (15, 2), (16, 2), (31, 2), (32, 2), (7, 1), (8, 1), (15, 1), (16, 1)]


def _shifted_sums(codes, values, zero, levels, steps):
    """The definition in int64: every value shifted left by what its code leaves of 7, one sum for each group."""
    count = steps * -(-levels // (8 * steps))
    sums = np.zeros((count, *codes.shape[:-1], values.shape[-1]), np.int64)
    octave, parity = codes // steps, codes % steps
    for group in range(count):
        live = (codes < levels) & (parity == group % steps) & (octave // 8 == group // steps)
        shift = np.where(live, 7 - octave % 8, 0)
        part = ((values.astype(np.int64) - zero)[..., None, :, :] << shift[..., None]) * live[..., None]
        sums[group] = part.sum(-2)
    return sums


@settings(max_examples=30, deadline=None)
@given(
    form=st.sampled_from(FORMS), n=st.integers(1, 9), m=st.integers(1, 40), c=st.integers(1, 9),
    signed=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_product_is_shifts_and_additions(form, n, m, c, signed, seed):
    levels, steps = form
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, levels + 1, (2, n, m)).astype(np.uint8)
    values = (
        rng.integers(-128, 128, (2, m, c)).astype(np.int8)
        if signed
        else rng.integers(0, 256, (2, m, c), np.uint8)
    )
    zero = 0 if signed else int(rng.integers(0, 256))
    found = hwsim.int_log_matmul(
        torch.from_numpy(codes),
        torch.from_numpy(values),
        torch.tensor(zero, dtype=torch.int32),
        levels,
        steps,
    )
    assert np.array_equal(found.numpy(), _shifted_sums(codes, values, zero, levels, steps))


@pytest.mark.parametrize(("levels", "steps"), FORMS)
def test_extremes(levels, steps):
    """All weight on one code, all values at their end: the widest sum of each accumulator."""
    values = torch.full((1, 3000, 2), 255, dtype=torch.uint8)
    for code in (0, 1, levels - 1, levels):
        codes = torch.full((1, 1, 3000), code, dtype=torch.uint8)
        found = hwsim.int_log_matmul(codes, values, torch.tensor(0, dtype=torch.int32), levels, steps)
        expected = _shifted_sums(codes.numpy(), values.numpy(), 0, levels, steps)
        assert np.array_equal(found.numpy(), expected)
        assert (int(found.abs().sum()) == 0) == (code == levels)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("zero", ["strict", "extended"])
def test_whole_chain_is_the_quantizer_times_the_values(bits, zero, steps):
    """Against the decoded codes in float64; what the integer form leaves out lies below 2^-16 of the scale."""
    generator = torch.Generator().manual_seed(bits)
    attention = torch.softmax(torch.randn(2, 7, 50, generator=generator) * 4, -1)
    quantizer = LogQuantizer(float(attention.max()) * 0.9, bits, zero, steps)
    values = torch.randint(0, 256, (2, 50, 5), generator=generator, dtype=torch.uint8)
    scale, point = torch.tensor(quantizer.scale), torch.tensor(128, dtype=torch.int32)
    form = (quantizer.integer_levels, steps)
    codes = hwsim.log_quantize(attention, scale, *form)
    exact = quantizer.encode(attention)
    assert torch.equal(codes.to(torch.int32), exact.clamp(max=form[0]))
    sums = hwsim.int_log_matmul(codes, values, point, *form)
    found = hwsim.log_dequantize(sums, scale, torch.tensor(0.5), *form)
    expected = quantizer.decode(exact).double() @ (values.double() - 128) * 0.5
    dropped = 50 * 64 * quantizer.scale * 2.0**-16 if quantizer.levels > form[0] else 0.0
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max()) + dropped


def test_fake_implementations_predict_shapes_and_types():
    x, scale = torch.rand(2, 3, 5), torch.tensor(0.7)
    codes, point = hwsim.log_quantize(x, scale, 15, 2), torch.tensor(3, dtype=torch.int32)
    values = torch.randint(0, 256, (2, 5, 4), dtype=torch.uint8)
    sums = hwsim.int_log_matmul(codes, values, point, 15, 2)
    assert sums.shape == (2, 2, 3, 4)
    torch.library.opcheck(hwsim.log_quantize.default, (x, scale, 15, 2))
    torch.library.opcheck(hwsim.int_log_matmul.default, (codes, values, point, 15, 2))
    torch.library.opcheck(hwsim.log_dequantize.default, (sums, scale, torch.tensor(0.1), 15, 2))
