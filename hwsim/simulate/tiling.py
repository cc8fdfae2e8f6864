"""Which tiles of one product move between a memory and the buffer inside it: an exact small search.

The product (m × k)·(k × n) is cut in tiles of (tile_m, tile_n, tile_k) that fit, double-buffered, in the
buffer. Two loop orders matter, since the accumulator stays in the buffer while k runs innermost:

* weights outer: each weight tile is fetched once, the inputs once per column of weight tiles;
* inputs outer: each input tile is fetched once, the weights once per row of input tiles.

When k is cut as well, both operands stream again for every output tile. The search enumerates every distinct
(tile_n, tile_k), takes the largest tile_m that fits (traffic never grows with tile_m), and keeps the tiling
with the least time, then the least traffic (energy), then the shortest first load.
"""

from typing import NamedTuple

from quant.jit import jit

WEIGHTS_OUTER, INPUTS_OUTER = 0, 1
ACCUMULATOR_BYTES = 4.0


class Tiling(NamedTuple):
    """Tile sizes and what crosses the border of the buffer, in bytes, for one instance of the product."""

    tile_m: int
    tile_n: int
    tile_k: int
    order: int
    input_bytes: float
    weight_bytes: float
    output_bytes: float
    first_load_bytes: float
    last_store_bytes: float


@jit
def _next_size(size: int, extent: int, align: int) -> int:
    """The next smaller distinct aligned tile size after ``size``; 0 when there is none."""
    if size <= align:
        return 0
    count = -(-extent // size) + 1
    while True:
        smaller = -(-extent // count)
        smaller = -(-smaller // align) * align
        if smaller < size:
            return smaller
        count = max(count + 1, -(-extent // max(size - align, 1)))


@jit
def search_tiling(
    m: int,
    n: int,
    k: int,
    input_bytes: float,
    weight_bytes: float,
    output_bytes: float,
    capacity: float,
    align_m: int,
    align_n: int,
    align_k: int,
    bytes_per_cycle: float,
    compute_cycles: float,
) -> tuple[int, int, int, int, float, float, float, float, float]:
    """Best tiling; the fields of :class:`Tiling`. Falls back to the smallest tile where nothing fits."""
    per_input = input_bytes / (m * k)
    per_weight = weight_bytes / (k * n)
    per_output = output_bytes / (m * n)
    best = (min(m, align_m), min(n, align_n), min(k, align_k), WEIGHTS_OUTER)
    best_input, best_weight, best_output = input_bytes * -(-n // best[1]), weight_bytes, output_bytes
    if best[2] < k:
        best_weight = weight_bytes * -(-m // best[0])
    best_first = best[2] * (best[0] * per_input + best[1] * per_weight)
    best_store = best[0] * best[1] * per_output
    best_time = 1e300
    best_traffic = 1e300
    tile_k = k
    while tile_k > 0:
        tile_n = n
        while tile_n > 0:
            whole_weights = tile_n >= n and tile_k >= k
            weight_tile = tile_n * tile_k * per_weight
            per_result = per_output if tile_k >= k else ACCUMULATOR_BYTES
            room = capacity - weight_tile * (1.0 if whole_weights else 2.0)
            line = 2.0 * tile_k * per_input + tile_n * per_result * (2.0 if tile_k >= k else 1.0)
            tile_m = m
            if room < line * m:
                tile_m = int(room / line) if room > 0 else 0
                tile_m = tile_m // align_m * align_m if tile_m >= align_m else tile_m
            if tile_m >= min(align_m, m) or tile_m >= m:
                rows_of_tiles = -(-m // tile_m)
                columns_of_tiles = -(-n // tile_n)
                even = -(-m // rows_of_tiles)
                tile_m = min(m, -(-even // align_m) * align_m)
                first = tile_k * (tile_m * per_input + tile_n * per_weight)
                store = tile_m * tile_n * per_output
                for order in range(2):
                    moved_input, moved_weight = input_bytes, weight_bytes
                    if tile_k < k:
                        moved_input = input_bytes * columns_of_tiles
                        moved_weight = weight_bytes * rows_of_tiles
                        if order == INPUTS_OUTER:
                            continue
                    elif order == WEIGHTS_OUTER:
                        moved_input = input_bytes * (columns_of_tiles if rows_of_tiles > 1 else 1)
                    else:
                        moved_weight = weight_bytes * (rows_of_tiles if columns_of_tiles > 1 else 1)
                    traffic = moved_input + moved_weight + output_bytes
                    time = max(compute_cycles, traffic / bytes_per_cycle)
                    if (
                        time < best_time * (1 - 1e-12)
                        or (time <= best_time and traffic < best_traffic * (1 - 1e-12))
                        or (
                            time <= best_time
                            and traffic <= best_traffic
                            and first + store < best_first + best_store
                        )
                    ):
                        best_time, best_traffic = time, traffic
                        best = (tile_m, tile_n, tile_k, order)
                        best_input, best_weight, best_output = moved_input, moved_weight, output_bytes
                        best_first, best_store = first, store
            tile_n = _next_size(tile_n, n, align_n)
        tile_k = _next_size(tile_k, k, align_k)
    return (
        best[0], best[1], best[2], best[3], best_input, best_weight, best_output, best_first, best_store,
    )  # fmt: skip
