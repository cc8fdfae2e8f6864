"""Price every (layer, scheme, engine, way) at once: the closed-form cost model, compiled.

time = max(compute, each memory) + first load + last store + launch + synchronisation, where compute follows
the engine's closed form (systolic folds as corrected SCALE-Sim; padded tiles for SIMD, dot-product and
tensor-core engines; Bit Fusion's form for bit-composable arrays) and the traffic of each memory is the least
that the tile search finds for the buffer inside it.
"""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate.jit import jit
from hwsim.simulate.machine import (
    E_COLUMNS, E_DATAFLOW, E_KIND, E_PIPELINED, E_ROWS, E_TILE_K, E_TILE_M, E_TILE_N, L_CAPACITY, L_PJ, L_RATE,
    L_SHARED,
)  # fmt: skip
from hwsim.simulate.tiling import ACCUMULATOR_BYTES, search_tiling

MAX_LEVELS = 6
WAY_SINGLE, WAY_ROWS, WAY_TERMS = 0, 1, 2
# Columns of the table of products: the layer's shape.
(D_BATCH, D_GROUPS, D_M, D_N, D_K, D_WINDOW, D_INPUTS, D_OUTPUTS, DIM_COLUMNS) = range(9)
# Columns of the table of points: how the layer is run.
(
    P_DIMS, P_ENGINE, P_WAY, P_TERMS, P_INPUT_BITS, P_OUTPUT_BITS, P_WEIGHT_HOME, P_ACT_HOME, P_SCALES, POINT_COLUMNS,
) = range(10)  # fmt: skip
# Columns of the table of terms: output rows, groups, inner columns, weight bits, MACs a cycle, pJ a MAC.
(T_N, T_GROUPS, T_K, T_BITS, T_RATE, T_PJ, TERM_COLUMNS) = range(7)
# Columns of the result.
(
    R_CYCLES, R_COMPUTE, R_MEMORY, R_FILL, R_FIXED, R_MAC_PJ, R_MEMORY_PJ, R_BOUND, R_WEIGHT_BYTES, R_ACT_BYTES,
    R_TILE_M, R_TILE_N, R_TILE_K, R_ORDER, R_FIRST_BYTES, R_STORE_BYTES, R_UNITS, R_MACS, R_LEVELS,
) = range(19)  # fmt: skip
RESULT_COLUMNS = R_LEVELS + MAX_LEVELS
BOUND_COMPUTE, BOUND_LAUNCH = -1, -2


@jit
def product_cycles(
    engine: NDArray[np.float64], instances: int, m: int, n: int, k: int, window: int, rate: float
) -> float:
    """Cycles of ``instances`` products (m × k)·(k × n) on one unit, operands at hand."""
    rows, columns = int(engine[E_ROWS]), int(engine[E_COLUMNS])
    if engine[E_KIND] == 0:
        pack = rate / (rows * columns)
        depth = -(-k // int(pack)) if pack >= 2 else k
        on_rows, on_columns, through = depth, n, m
        if engine[E_DATAFLOW] == 0:
            on_rows, on_columns, through = m, n, depth
        elif engine[E_DATAFLOW] == 2:
            on_rows, on_columns, through = depth, m, n
        folds = float(instances) * -(-on_rows // rows) * -(-on_columns // columns)
        if engine[E_PIPELINED] > 0:
            cycles = folds * max(through, rows) + 2 * rows + columns - 2
        else:
            cycles = folds * (through + 2 * rows + columns - 2)
        slower = rate / (rows * columns) / max(1, int(pack))
        return cycles / min(slower, 1.0)
    if engine[E_KIND] == 2:
        depth = max(1, int(rows * rate / (rows * columns)))
        channels = max(1, k // window)
        steps = min(window * -(-channels // depth), -(-k // depth)) if channels < rows else window * -(-channels // depth)
        return float(instances) * m * -(-n // columns) * steps
    tile_m, tile_n, tile_k = int(engine[E_TILE_M]), int(engine[E_TILE_N]), int(engine[E_TILE_K])
    if n == 1 and instances > 1:
        n, instances = instances, 1
    padded = float(-(-m // tile_m) * tile_m) * (-(-n // tile_n) * tile_n) * (-(-k // tile_k) * tile_k)
    return instances * padded / rate


@jit
def edge_bytes(
    engine: NDArray[np.float64], instances: int, m: int, n: int, k: int, input_bytes: float, weight_bytes: float, output: float
) -> float:
    """Bytes between the innermost memory and the engine: operands re-read once per fold or register tile."""
    if engine[E_KIND] == 0:
        rows, columns = int(engine[E_ROWS]), int(engine[E_COLUMNS])
        spills = 2 * max(0, -(-k // rows) - 1) * ACCUMULATOR_BYTES * m * n * instances
        if engine[E_DATAFLOW] == 0:
            return input_bytes * -(-n // columns) + weight_bytes * -(-m // rows) + output
        if engine[E_DATAFLOW] == 1:
            return input_bytes * -(-n // columns) + weight_bytes + output + spills
        return input_bytes + weight_bytes * -(-m // columns) + output + spills
    tile_m, tile_n = int(engine[E_TILE_M]), int(engine[E_TILE_N])
    if engine[E_KIND] == 2:
        tile_m, tile_n = 1, int(engine[E_COLUMNS])
    if n == 1 and instances > 1:
        return input_bytes + weight_bytes * -(-m // tile_m) + output
    return input_bytes * -(-n // tile_n) + weight_bytes * -(-m // tile_m) + output


@jit
def _boundary(
    instances: int, m: int, n: int, k: int, input_bytes: float, weight_bytes: float, output_bytes: float,
    capacity: float, rate: float, compute: float, engine: NDArray[np.float64],
) -> tuple[float, float, float, float, float, int, int, int, int]:  # fmt: skip
    """Traffic into a buffer of ``capacity`` bytes: inputs, weights, outputs, first load, last store, tile."""
    whole = input_bytes + weight_bytes + output_bytes
    if whole <= capacity:
        return input_bytes, weight_bytes, output_bytes, 0.0, 0.0, m, n, k, 0
    each = whole / instances
    if instances > 1 and 2 * each <= capacity:
        together = max(1, int(capacity / (2 * each)))
        first = (input_bytes + weight_bytes) / instances * together
        store = output_bytes / instances * together
        return input_bytes, weight_bytes, output_bytes, first, store, m, n, k, 0
    align_m, align_n, align_k = int(engine[E_TILE_M]), int(engine[E_TILE_N]), int(engine[E_TILE_K])
    if engine[E_KIND] != 1:
        align_m, align_n, align_k = 1, int(engine[E_COLUMNS]), int(engine[E_ROWS])
    tile_m, tile_n, tile_k, order, moved_in, moved_w, moved_out, first, store = search_tiling(
        m, n, k, input_bytes / instances, weight_bytes / instances, output_bytes / instances, capacity,
        align_m, align_n, align_k, rate, compute / instances,
    )  # fmt: skip
    return (
        moved_in * instances, moved_w * instances, moved_out * instances, first, store, tile_m, tile_n, tile_k, order,
    )  # fmt: skip


@jit
def price_options(
    dims: NDArray[np.int64],
    points: NDArray[np.float64],
    terms: NDArray[np.float64],
    engines: NDArray[np.float64],
    levels: NDArray[np.float64],
    constants: NDArray[np.float64],
    results: NDArray[np.float64],
    term_cycles: NDArray[np.float64],
) -> None:
    """Fill ``results`` and ``term_cycles``, one row per point; ``constants``: units, launch, sync, add rate."""
    units = int(constants[0])
    level_count = levels.shape[0]
    for index in range(points.shape[0]):
        point = points[index]
        shape = dims[int(point[P_DIMS])]
        engine = engines[int(point[P_ENGINE])]
        way, count = int(point[P_WAY]), int(point[P_TERMS])
        batch, groups, m, n = shape[D_BATCH], shape[D_GROUPS], shape[D_M], shape[D_N]
        k, window = shape[D_K], shape[D_WINDOW]
        instances = batch * groups
        # Shares of one unit.
        used, part_instances, part_n = 1, instances, n
        if way == WAY_ROWS:
            used = units
            if instances >= units:
                part_instances = -(-instances // units)
            else:
                part_n = -(-n // units)
        elif way == WAY_TERMS:
            used = min(units, count)
        share = part_instances / instances * (part_n / n)
        input_share = part_instances / instances
        # Compute of each term, and the bytes of its weights.
        weight_bytes, mac_pj, macs, compute = 0.0, 0.0, 0.0, 0.0
        largest = 0.0
        for t in range(count):
            term = terms[index, t]
            term_n, term_groups, term_k = int(term[T_N]), int(term[T_GROUPS]), int(term[T_K])
            alone = product_cycles(engine, batch * term_groups, m, term_n, term_k, window, term[T_RATE])
            term_cycles[index, t] = alone
            if way == WAY_ROWS:
                if instances >= units:
                    part = product_cycles(
                        engine, max(1, -(-(batch * term_groups) // units)), m, term_n, term_k, window, term[T_RATE]
                    )
                else:
                    part = product_cycles(
                        engine, batch * term_groups, m, -(-term_n // units), term_k, window, term[T_RATE]
                    )
            else:
                part = alone
            compute += part
            largest = max(largest, part)
            term_macs = float(batch) * term_groups * m * term_n * term_k
            macs += term_macs
            mac_pj += term_macs * term[T_PJ]
            weight_bytes += term_groups * term_n * (term_k * term[T_BITS] / 8 + point[P_SCALES])
        if way == WAY_TERMS:
            # Longest-processing-time bound; exact when each unit has one term.
            compute = largest if count <= units else max(largest, compute / units + largest * (1 - 1 / units))
        if shape[D_WINDOW] == 0:  # a product of two activations: its second operand is batched
            weight_bytes *= batch
        input_bytes = shape[D_INPUTS] * point[P_INPUT_BITS] / 8
        output_bytes = shape[D_OUTPUTS] * point[P_OUTPUT_BITS] / 8
        weight_home, act_home = int(point[P_WEIGHT_HOME]), int(point[P_ACT_HOME])
        memory, memory_pj, fill, bound = 0.0, 0.0, 0.0, BOUND_COMPUTE
        results[index, R_TILE_M] = 0
        slowest = compute
        out_factor = ACCUMULATOR_BYTES * 8 / point[P_OUTPUT_BITS] * 2 * count if way == WAY_TERMS else 1.0
        for level in range(level_count):
            rate = levels[level, L_RATE]
            if level == 0:
                per_unit = edge_bytes(
                    engine, part_instances, m, part_n, k, input_bytes * input_share, weight_bytes * share, output_bytes * share
                )
                moved = per_unit * used
                if level_count == 1:
                    moved = input_bytes + weight_bytes + output_bytes
                    per_unit = moved / used
                    fill = 0.0
            else:
                take_w = weight_bytes if weight_home >= level else 0.0
                take_i = input_bytes if act_home >= level else 0.0
                take_o = output_bytes * out_factor if act_home >= level else 0.0
                if take_w + take_i + take_o == 0.0:
                    results[index, R_LEVELS + level] = 0.0
                    continue
                if levels[level - 1, L_SHARED] > 0:
                    into_i, into_w, into_o, first, store, tile_m, tile_n, tile_k, order = _boundary(
                        instances, m, n, k, take_i, take_w, take_o, levels[level - 1, L_CAPACITY], rate, compute, engine
                    )
                    moved = into_i + into_w + into_o
                    per_unit = moved / used
                else:
                    into_i, into_w, into_o, first, store, tile_m, tile_n, tile_k, order = _boundary(
                        part_instances, m, part_n, k, take_i * input_share, take_w * share, take_o * share,
                        levels[level - 1, L_CAPACITY], rate, compute, engine,
                    )  # fmt: skip
                    per_unit = into_i + into_w + into_o
                    moved = per_unit * used
                if level == max(weight_home, act_home):
                    results[index, R_TILE_M], results[index, R_TILE_N] = tile_m, tile_n
                    results[index, R_TILE_K], results[index, R_ORDER] = tile_k, order
                    results[index, R_FIRST_BYTES], results[index, R_STORE_BYTES] = first, store
                    fill = (first + store) / rate
            cycles = (moved if levels[level, L_SHARED] > 0 else per_unit) / rate
            results[index, R_LEVELS + level] = moved
            memory_pj += moved * levels[level, L_PJ]
            memory = max(memory, cycles)
            if cycles > slowest:
                slowest, bound = cycles, level
        fixed = constants[1]
        if used > 1:
            fixed += constants[2]
            if way == WAY_TERMS:
                fixed += shape[D_OUTPUTS] * (count - 1) / constants[3]
        results[index, R_CYCLES] = slowest + fill + fixed
        results[index, R_COMPUTE], results[index, R_MEMORY], results[index, R_FILL] = compute, memory, fill
        results[index, R_FIXED], results[index, R_MAC_PJ], results[index, R_MEMORY_PJ] = fixed, mac_pj, memory_pj
        results[index, R_BOUND] = BOUND_LAUNCH if fixed > slowest + fill else bound
        results[index, R_WEIGHT_BYTES], results[index, R_ACT_BYTES] = weight_bytes, input_bytes + output_bytes
        results[index, R_UNITS], results[index, R_MACS] = used, macs
        _term_memory(term_cycles[index], terms[index], count, batch, weight_bytes, input_bytes, output_bytes,
                     results[index], levels, weight_home, shape[D_WINDOW])  # fmt: skip


@jit
def _term_memory(
    cycles: NDArray[np.float64], terms: NDArray[np.float64], count: int, batch: int, weight_bytes: float,
    input_bytes: float, output_bytes: float, result: NDArray[np.float64], levels: NDArray[np.float64],
    weight_home: int, window: int,
) -> None:  # fmt: skip
    """Raise each term's cycles to what its share of the traffic takes, weights in proportion to their bytes."""
    whole = weight_bytes + input_bytes + output_bytes
    for t in range(count):
        bytes_here = terms[t, T_GROUPS] * terms[t, T_N] * terms[t, T_K] * terms[t, T_BITS] / 8
        if window == 0:
            bytes_here *= batch
        for level in range(1, levels.shape[0]):
            moved = result[R_LEVELS + level] * (bytes_here + input_bytes + output_bytes) / whole
            cycles[t] = max(cycles[t], moved / levels[level, L_RATE])
