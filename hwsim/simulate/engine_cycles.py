"""Compute cycles of a product on one engine, operands at hand: closed forms, compiled.

Systolic folds as corrected SCALE-Sim, padded tiles for SIMD, dot-product and tensor-core engines, Bit Fusion's form
for bit-composable arrays; and the busiest unit's part where the outputs are split over several.
"""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from quant.jit import jit

Row = NDArray[np.float64]


@jit
def ceil_div(value: int, parts: int) -> int:
    """Smallest integer not below value / parts."""
    return (value + parts - 1) // parts


@jit
def product_cycles(engine: Row, instances: int, m: int, n: int, k: int, window: int, rate: float) -> float:
    """Cycles of ``instances`` products (m × k)·(k × n) on one unit, operands at hand."""
    rows, columns = int(engine[col.E_ROWS]), int(engine[col.E_COLUMNS])
    efficiency, startup = engine[col.E_EFFICIENCY], engine[col.E_STARTUP]
    if engine[col.E_KIND] == 0:
        arrays = engine[col.E_ARRAYS]
        if n == 1 and instances > 1 and window > 0 and engine[col.E_DATAFLOW] == 1:
            # Depthwise: channels lie block-diagonally on the array, k rows and one column each.
            side = max(1, min(rows // k, columns, instances))
            instances, k, n = ceil_div(instances, side), k * side, side
        pack = rate / (rows * columns * arrays)  # products of one element a cycle: laid along k
        depth = ceil_div(k, int(pack)) if pack >= 2 else k
        on_rows, on_columns, through = depth, n, m
        if engine[col.E_DATAFLOW] == 0:
            on_rows, on_columns, through = m, n, depth
        elif engine[col.E_DATAFLOW] == 2:
            on_rows, on_columns, through = depth, m, n
        folds = np.ceil(float(instances) * ceil_div(on_rows, rows) * ceil_div(on_columns, columns) / arrays)
        if engine[col.E_PIPELINED] > 0:
            loads = rows if engine[col.E_DATAFLOW] > 0 else 1
            cycles = folds * max(through, loads) + 2 * rows + columns - 2
        else:
            cycles = folds * (through + 2 * rows + columns - 2)
        return cycles / min(pack / max(1, int(pack)), 1.0) / efficiency + startup
    if engine[col.E_KIND] == 2:
        depth = max(1, int(rate / columns))  # input channels in parallel: N · p
        area = max(1, window)
        channels = max(1, k // area)
        # Too few channels to fill the rows: the window is unrolled (im2col), as in the first layer.
        unrolled = channels < rows and engine[col.E_UNROLLS_WINDOW] > 0
        steps = ceil_div(k, depth) if unrolled else area * ceil_div(channels, depth)
        return float(instances) * m * ceil_div(n, columns) * steps / efficiency + startup
    tile_m, tile_n, tile_k = int(engine[col.E_TILE_M]), int(engine[col.E_TILE_N]), int(engine[col.E_TILE_K])
    if n == 1 and instances > 1:
        n, instances = instances, 1
    elif engine[col.E_PADS_WINDOW] > 0 and window > 1:
        k = window * (ceil_div(k // window, tile_k) * tile_k)
    padded = (
        float(ceil_div(m, tile_m) * tile_m) * (ceil_div(n, tile_n) * tile_n) * (ceil_div(k, tile_k) * tile_k)
    )
    outputs = float(instances) * m * n * engine[col.E_PER_OUTPUT]
    return instances * padded / (rate * efficiency) + outputs + startup


@jit
def split_cycles(
    engine: Row, instances: int, m: int, n: int, k: int, window: int, rate: float, units: int, split: int
) -> float:
    """Cycles of the busiest unit when the outputs are split over ``units``.

    SIMD engines hand out whole output tiles; arrays split one dimension.
    """
    if engine[col.E_KIND] == 1:
        across = instances if n == 1 and instances > 1 else n
        tiles = ceil_div(m, int(engine[col.E_TILE_M])) * ceil_div(across, int(engine[col.E_TILE_N]))
        if across == n:
            tiles *= instances
        startup = engine[col.E_STARTUP]
        whole = product_cycles(engine, instances, m, n, k, window, rate) - startup
        return whole * ceil_div(tiles, units) / tiles + startup
    if split == col.SPLIT_INSTANCES:
        return product_cycles(engine, ceil_div(instances, units), m, n, k, window, rate)
    if split == col.SPLIT_N:
        return product_cycles(engine, instances, m, ceil_div(n, units), k, window, rate)
    return product_cycles(engine, instances, ceil_div(m, units), n, k, window, rate)


@jit
def choose_split(
    engine: Row, shape: NDArray[np.int64], rate: float, units: int, inputs: float, weights: float
) -> int:
    """Instances (heads, groups) where there are enough, else rows or pixels: fastest, then least copied."""
    instances, m, n, k = (
        shape[col.D_BATCH] * shape[col.D_GROUPS],
        shape[col.D_M],
        shape[col.D_N],
        shape[col.D_K],
    )
    best, split = 1e300, col.SPLIT_INSTANCES
    if instances > 1:
        best = split_cycles(engine, instances, m, n, k, shape[col.D_WINDOW], rate, units, col.SPLIT_INSTANCES)
        if instances >= units and engine[col.E_KIND] == 1:
            return split
    by_n = split_cycles(engine, instances, m, n, k, shape[col.D_WINDOW], rate, units, col.SPLIT_N)
    by_m = split_cycles(engine, instances, m, n, k, shape[col.D_WINDOW], rate, units, col.SPLIT_M)
    if min(by_n, by_m) >= best:
        return split
    if by_n < by_m or (by_n == by_m and inputs <= weights):
        return col.SPLIT_N
    return col.SPLIT_M
