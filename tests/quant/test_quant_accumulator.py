"""What a sum may reach is estimated before quantizing, and holds for the codes that quantizing then makes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.accumulator import worst_matmul_sum, worst_sum
from quant.scheme import Scheme


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.sampled_from([3, 4, 8, 12, 16]), st.integers(0, 10**6))
def test_no_inputs_exceed_the_estimate(depth, bits, seed):
    """float64: the largest sum that any activation codes can make with the rounded rows."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_t(3, (4, depth)))
    levels = 2 ** (bits - 1) - 1
    codes = (weight / weight.abs().amax(1, keepdim=True) * levels).round()
    reached = float(codes.abs().sum(1).max()) * (2**16 - 1)
    slack = 1 + 0.5 * depth / max(1.0, float(codes.abs().sum(1).max()))  # each code may round up by a half
    assert reached <= worst_sum(Scheme(bits, 16), depth, weight) * slack
    assert worst_sum(Scheme(bits, 16), depth, weight) <= depth * levels * (2**16 - 1) * (1 + 1e-6)


def test_products_of_two_activations_and_later_orders_take_the_largest_codes():
    assert worst_matmul_sum(Scheme(8, 16), 64) == 64 * 255 * 65535
    assert worst_sum(Scheme(4, 16, order=2), 100, torch.ones(1, 100) * torch.eye(100)[:1]) == 100 * 8 * 65535
    assert worst_sum(Scheme(8, 16), 768) == pytest.approx(768 * 127 * 0.8 / 3.83 * 1.1 * 65535, rel=0.01)
    assert worst_sum(Scheme(8, None), 10**6) == worst_sum(Scheme(None, None), 10**6) == 0
