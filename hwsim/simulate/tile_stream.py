"""The tiles of a product on their way from a memory through the buffer inside it, compiled."""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from hwsim.simulate.engine_cycles import ceil_div
from hwsim.simulate.tiling import ACCUMULATOR_BYTES, search_tiling
from quant.jit import jit

Row = NDArray[np.float64]
REGISTER_TILE = 8  # a SIMD kernel keeps a block of at least this many outputs a side in registers


@jit
def edge_bytes(
    engine: Row, instances: int, m: int, n: int, k: int, inputs: float, weights: float, outputs: float
) -> float:
    """Bytes between the innermost memory and the engine: operands re-read once per fold or register tile."""
    if engine[col.E_KIND] == 0:
        rows, columns = int(engine[col.E_ROWS]), int(engine[col.E_COLUMNS])
        if engine[col.E_DATAFLOW] == 0:
            return inputs * ceil_div(n, columns) + weights * ceil_div(m, rows) + outputs
        spills = 2 * max(0, ceil_div(k, rows) - 1) * ACCUMULATOR_BYTES * m * n * instances
        if engine[col.E_DATAFLOW] == 1:
            return inputs * ceil_div(n, columns) + weights + outputs + spills
        return inputs + weights * ceil_div(m, columns) + outputs + spills
    tile_m, tile_n = (
        max(REGISTER_TILE, int(engine[col.E_TILE_M])),
        max(REGISTER_TILE, int(engine[col.E_TILE_N])),
    )
    if engine[col.E_KIND] == 2:
        tile_m, tile_n = 1, int(engine[col.E_COLUMNS])
    if n == 1 and instances > 1:
        return inputs + weights * ceil_div(m, tile_m) + outputs
    return inputs * ceil_div(n, tile_n) + weights * ceil_div(m, tile_m) + outputs


@jit
def tile_stream(
    instances: int, m: int, n: int, k: int, inputs: float, weights: float, outputs: float, level: Row,
    compute: float, engine: Row, stream: Row,
) -> None:  # fmt: skip
    """The tiles of one product from memory ``level`` through the buffer inside it, written to ``stream``.

    An operand is fetched, or a result stored, every so-many tiles. What fits as a whole is still cut in up to
    ``STREAM_PARTS`` tiles, so that compute starts before everything has arrived.
    """
    align_m, align_n, align_k = 1, int(engine[col.E_COLUMNS]), int(engine[col.E_ROWS])
    if engine[col.E_KIND] == 1:
        align_m, align_n, align_k = (
            int(engine[col.E_TILE_M]),
            int(engine[col.E_TILE_N]),
            int(engine[col.E_TILE_K]),
        )
    capacity, rate = level[col.L_BUFFER], level[col.L_RATE]
    whole = inputs + weights + outputs
    stream[col.S_INPUT], stream[col.S_WEIGHT], stream[col.S_OUTPUT] = inputs, weights, outputs
    stream[col.S_M], stream[col.S_N], stream[col.S_K] = m, n, k
    stream[col.S_INPUT_EVERY], stream[col.S_WEIGHT_EVERY], stream[col.S_OUTPUT_EVERY] = 1, 1, 1
    if instances > 1 and 2 * whole / instances <= capacity:
        together = max(1, min(int(capacity / (2 * whole / instances)), ceil_div(instances, col.STREAM_PARTS)))
        stream[col.S_TILES] = ceil_div(instances, together)
    elif level[col.L_WEIGHT_BUFFER] > 0 and inputs + outputs <= capacity - level[col.L_WEIGHT_BUFFER]:
        # The inputs stay in their own buffer; the weights pass through theirs, double-buffered.
        parts = min(col.STREAM_PARTS, ceil_div(n, align_n))
        if weights > level[col.L_WEIGHT_BUFFER]:
            parts = int(np.ceil(2 * weights / level[col.L_WEIGHT_BUFFER]))
        each = max(1, min(m, 4 * col.STREAM_PARTS // parts))  # results leave as they are made
        stream[col.S_TILES], stream[col.S_WEIGHT_EVERY] = parts * each, each
        stream[col.S_INPUT_EVERY] = parts * each
    elif whole <= capacity:
        _split_resident(instances, m, n, inputs, weights, align_m, align_n, stream)
    else:
        tile_m, tile_n, tile_k, order, moved_in, moved_w, _, _, _ = search_tiling(
            m, n, k, inputs / instances, weights / instances, outputs / instances, capacity,
            align_m, align_n, align_k, rate, compute / instances,
        )  # fmt: skip
        down, across, deep = ceil_div(m, tile_m), ceil_div(n, tile_n), ceil_div(k, tile_k)
        stream[col.S_M], stream[col.S_N], stream[col.S_K] = tile_m, tile_n, tile_k
        stream[col.S_INPUT], stream[col.S_WEIGHT] = moved_in * instances, moved_w * instances
        stream[col.S_TILES] = float(instances) * down * across * deep
        if deep > 1:
            stream[col.S_OUTPUT_EVERY] = deep
        elif order == 0:
            stream[col.S_WEIGHT_EVERY] = down
            stream[col.S_INPUT_EVERY] = across if down == 1 else 1
        else:
            stream[col.S_INPUT_EVERY] = across
            stream[col.S_WEIGHT_EVERY] = down if across == 1 else 1


@jit
def _split_resident(
    instances: int, m: int, n: int, inputs: float, weights: float, align_m: int, align_n: int, stream: Row
) -> None:
    """Cut a product that fits along the side of its larger operand; the other one arrives first, whole."""
    if weights >= inputs:
        tile = min(n, max(1, ceil_div(ceil_div(n, col.STREAM_PARTS), align_n)) * align_n)
        tiles = ceil_div(n, tile)
        stream[col.S_N], stream[col.S_INPUT_EVERY] = tile, tiles
    else:
        tile = min(m, max(1, ceil_div(ceil_div(m, col.STREAM_PARTS), align_m)) * align_m)
        tiles = ceil_div(m, tile)
        stream[col.S_M], stream[col.S_WEIGHT_EVERY] = tile, tiles
    stream[col.S_TILES] = tiles * instances


@jit
def whole_bursts(stream: Row, burst: float) -> None:
    """Each operand of each tile is a transfer of its own; the memory moves whole bursts."""
    if burst <= 1:
        return
    for operand, every in (
        (col.S_INPUT, col.S_INPUT_EVERY), (col.S_WEIGHT, col.S_WEIGHT_EVERY), (col.S_OUTPUT, col.S_OUTPUT_EVERY)
    ):  # fmt: skip
        transfers = np.ceil(stream[col.S_TILES] / stream[every])
        stream[operand] = transfers * np.ceil(stream[operand] / transfers / burst - 1e-9) * burst


@jit
def ends_bytes(stream: Row, prefetch: bool) -> float:
    """Bytes of the first load and of the last store: what no compute can hide within the layer.

    With ``prefetch`` the first weights come while the layer before computes.
    """
    tiles = stream[col.S_TILES]
    first = stream[col.S_INPUT] / np.ceil(tiles / stream[col.S_INPUT_EVERY])
    if not prefetch:
        first += stream[col.S_WEIGHT] / np.ceil(tiles / stream[col.S_WEIGHT_EVERY])
    return first + stream[col.S_OUTPUT] / np.ceil(tiles / stream[col.S_OUTPUT_EVERY])
