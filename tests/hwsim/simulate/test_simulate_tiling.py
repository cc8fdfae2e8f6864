"""The tile search against enumeration of every tile size and order."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.simulate.tiling import ACCUMULATOR_BYTES, Tiling, search_tiling


def ceil(a, b):
    return -(-a // b)


def traffic_of(m, n, k, tile, order, inputs, weights, outputs, capacity):
    """Bytes moved by one tiling, None where it does not fit; written from the loop nest."""
    tile_m, tile_n, tile_k = tile
    down, across, deep = ceil(m, tile_m), ceil(n, tile_n), ceil(k, tile_k)
    input_tile = inputs * tile_m * tile_k / (m * k)
    weight_tile = weights * tile_n * tile_k / (n * k)
    output_tile = (
        outputs * tile_m * tile_n / (m * n) * 2 if deep == 1 else ACCUMULATOR_BYTES * tile_m * tile_n
    )
    weight_buffers = 1 if across == 1 and deep == 1 else 2
    if 2 * input_tile + weight_buffers * weight_tile + output_tile > capacity * (1 + 1e-9):
        return None
    if deep > 1:
        return inputs * across + weights * down + outputs
    if order == 0:  # for each weight tile, all input tiles
        return inputs * (across if down > 1 else 1) + weights + outputs
    return inputs + weights * (down if across > 1 else 1) + outputs


sizes = st.integers(1, 14)


@settings(max_examples=150, deadline=None)
@given(
    sizes,
    sizes,
    sizes,
    st.integers(30, 900),
    st.sampled_from([1, 2, 4]),
    st.floats(0.5, 8),
    st.floats(0, 500),
)
def test_no_tiling_is_faster_or_moves_less(m, n, k, capacity, align, rate, compute):
    inputs, weights, outputs = float(m * k), float(n * k), float(m * n)
    found = Tiling(
        *search_tiling(m, n, k, inputs, weights, outputs, float(capacity), 1, align, align, rate, compute)
    )
    moved = found.input_bytes + found.weight_bytes + found.output_bytes

    def aligned(size):
        return sorted({min(size, ceil(t, align) * align) for t in range(1, size + 1)} | {size})

    best = None
    for tile in itertools.product(range(1, m + 1), aligned(n), aligned(k)):
        for order in (0, 1):
            traffic = traffic_of(m, n, k, tile, order, inputs, weights, outputs, capacity)
            if traffic is not None:
                key = (max(compute, traffic / rate), traffic)
                best = key if best is None else min(best, key)
    if best is None:
        return  # nothing fits: the search answers with its smallest tile
    assert max(compute, moved / rate) == pytest.approx(best[0], rel=1e-9)
    assert moved == pytest.approx(best[1], rel=1e-9)


def test_what_fits_moves_once():
    found = Tiling(*search_tiling(64, 64, 64, 4096.0, 4096.0, 4096.0, 1e6, 1, 8, 8, 4.0, 10.0))
    assert (found.input_bytes, found.weight_bytes, found.output_bytes) == (4096.0, 4096.0, 4096.0)


def test_small_buffer_streams_the_smaller_operand_again():
    """Weights of 1 MB through 64 kB: the inputs (32 kB) are kept, so nothing moves twice."""
    found = Tiling(*search_tiling(32, 1024, 1024, 32768.0, 2.0**20, 32768.0, 2.0**17, 1, 16, 16, 4.0, 10.0))
    assert found.weight_bytes == 2**20
    assert found.input_bytes == 32768.0
