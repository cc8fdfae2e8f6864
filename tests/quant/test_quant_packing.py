"""Packed storage: exact inverse, exact size, and the bit layout that is documented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import packing
from quant.errors import QuantError


def codes(bits, count, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.int8 if bits <= 8 else np.int16
    if bits == 1:
        return (2 * rng.integers(0, 2, count) - 1).astype(dtype)
    return rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), count).astype(dtype)


@settings(max_examples=300, deadline=None)
@given(bits=st.integers(1, 16), count=st.integers(0, 300), seed=st.integers(0, 9))
def test_round_trip_and_size(bits, count, seed):
    values = codes(bits, count, seed)
    data = packing.pack(values, bits)
    assert data.dtype == np.uint8 and len(data) == -(-count * bits // 8)
    back = packing.unpack(data, bits, count)
    assert back.dtype == values.dtype and np.array_equal(back, values)


def test_layout_is_least_significant_bit_first():
    """A Python big integer is the independent reader."""
    for bits in (1, 3, 4, 5, 7, 8, 11, 16):
        values = codes(bits, 37)
        number = int.from_bytes(packing.pack(values, bits).tobytes(), "little")
        fields = [(number >> (bits * i)) & ((1 << bits) - 1) for i in range(37)]
        offset = [(v + 1) // 2 if bits == 1 else v + 2 ** (bits - 1) for v in values.tolist()]
        assert fields == offset


def test_chunks_do_not_show(monkeypatch):
    values = codes(3, 1001)
    whole = packing.pack(values, 3)
    monkeypatch.setattr(packing, "_CHUNK", 64)
    assert np.array_equal(packing.pack(values, 3), whole)
    assert np.array_equal(packing.unpack(whole, 3, 1001), values)


@pytest.mark.parametrize("values, bits", [([8], 4), ([-9], 4), ([0], 1), ([2], 1), ([1], 0), ([1], 17)])
def test_codes_that_do_not_fit_are_refused(values, bits):
    with pytest.raises(QuantError):
        packing.pack(np.array(values), bits)


def test_truncated_data_is_refused():
    data = packing.pack(codes(4, 10), 4)
    with pytest.raises(QuantError, match="do not hold 10 codes"):
        packing.unpack(data[:-1], 4, 10)
