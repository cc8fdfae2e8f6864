"""Price every (layer, scheme, engine, way) at once: the closed-form cost model, compiled.

time = max(home memory, max(compute + stalls, inner memories) + first load + last store) + latency + launch + sync

where "home" is the memory in which the operands live, compute follows the engine's closed form (``engine_cycles``) and
the traffic of each memory is the least that the tile search finds for the buffer inside it (``tile_stream``). Work that
is split over units takes as many of them as make it fastest: every number of units is tried. Stalls are the share of a
unit's transfers that nothing fetched ahead (``memories[].exposed``).
"""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from hwsim.simulate.engine_cycles import ceil_div, choose_split, product_cycles, split_cycles
from hwsim.simulate.tile_stream import edge_bytes, ends_bytes, tile_stream, whole_bursts
from hwsim.simulate.tiling import ACCUMULATOR_BYTES
from quant.jit import jit

Row = NDArray[np.float64]
Table = NDArray[np.float64]


@jit
def _price_compute(
    point: Row, shape: NDArray[np.int64], terms: Table, engine: Row, units: int, result: Row, orders: Table
) -> None:
    """Compute cycles of the busiest unit, MACs, their energy and the stored bytes of the weights."""
    batch, m, window = shape[col.D_BATCH], shape[col.D_M], shape[col.D_WINDOW]
    way, count = int(point[col.P_WAY]), int(point[col.P_TERMS])
    weight_bytes, macs, mac_pj = 0.0, 0.0, 0.0
    for t in range(count):
        n, k, rate = int(terms[t, col.T_N]), int(terms[t, col.T_K]), terms[t, col.T_RATE]
        instances = batch * int(terms[t, col.T_GROUPS])
        orders[t, col.O_CYCLES] = product_cycles(engine, instances, m, n, k, window, rate)
        orders[t, col.O_PJ] = float(instances) * m * n * k * terms[t, col.T_PJ]
        macs += float(instances) * m * n * k
        mac_pj += orders[t, col.O_PJ]
        weight_bytes += terms[t, col.T_GROUPS] * n * (k * terms[t, col.T_BITS] / 8 + point[col.P_SCALES])
    if window == 0:  # a product of two activations: each instance has its own second operand
        weight_bytes *= batch
    split = col.SPLIT_NONE
    if way == col.WAY_ROWS:
        inputs = shape[col.D_INPUTS] * point[col.P_INPUT_BITS] / 8
        split = choose_split(engine, shape, terms[0, col.T_RATE], units, inputs, weight_bytes)
    compute, largest = 0.0, 0.0
    for t in range(count):
        part = orders[t, col.O_CYCLES]
        if way == col.WAY_ROWS:
            part = split_cycles(
                engine, batch * int(terms[t, col.T_GROUPS]), m, int(terms[t, col.T_N]), int(terms[t, col.T_K]),
                window, terms[t, col.T_RATE], units, split,
            )  # fmt: skip
        compute += part
        largest = max(largest, part)
    if way == col.WAY_TERMS:
        # Exact with a unit for each term, else Graham's bound for the longest-first assignment.
        compute = largest if count <= units else max(largest, compute / units + largest * (1 - 1 / units))
    if way != col.WAY_TERMS:
        compute += shape[col.D_PREPARED] * engine[col.E_PER_INPUT] / (units if way == col.WAY_ROWS else 1)
    else:
        compute += shape[col.D_PREPARED] * engine[col.E_PER_INPUT]
    result[col.R_COMPUTE], result[col.R_MACS], result[col.R_MAC_PJ] = compute, macs, mac_pj
    result[col.R_WEIGHT_BYTES], result[col.R_SPLIT] = weight_bytes, split
    act_bits = shape[col.D_INPUTS] * point[col.P_INPUT_BITS] + shape[col.D_OUTPUTS] * point[col.P_OUTPUT_BITS]
    result[col.R_ACT_BYTES] = act_bits / 8


@jit
def _price_memory(
    units: int, point: Row, shape: NDArray[np.int64], engine: Row, levels: Table, prefetch: bool, result: Row,
    stream: Row,
) -> None:  # fmt: skip
    """Traffic, cycles and energy of every memory; the stream of tiles of the home memory.

    The innermost memory costs energy but no time of its own: an engine's rates hold with operands at hand.
    """
    instances, m, n, k = (
        shape[col.D_BATCH] * shape[col.D_GROUPS],
        shape[col.D_M],
        shape[col.D_N],
        shape[col.D_K],
    )
    split, used = int(result[col.R_SPLIT]), int(result[col.R_UNITS])
    part_instances = ceil_div(instances, units) if split == col.SPLIT_INSTANCES else instances
    part_n = ceil_div(n, units) if split == col.SPLIT_N else n
    part_m = ceil_div(m, units) if split == col.SPLIT_M else m
    input_share = part_instances / instances * (part_m / m)
    weight_share = part_instances / instances * (part_n / n)
    output_share = input_share * (part_n / n)
    weights, inputs = result[col.R_WEIGHT_BYTES], shape[col.D_INPUTS] * point[col.P_INPUT_BITS] / 8
    outputs = shape[col.D_OUTPUTS] * point[col.P_OUTPUT_BITS] / 8
    if point[col.P_WAY] == col.WAY_TERMS:  # partial sums of all terms but one go through memory and back
        outputs += 2 * ACCUMULATOR_BYTES * shape[col.D_OUTPUTS] * (point[col.P_TERMS] - 1)
        weight_share, output_share = 1 / used, 1 / used
    weight_home, act_home = int(point[col.P_WEIGHT_HOME]), int(point[col.P_ACT_HOME])
    home = max(weight_home, act_home)
    compute, count = result[col.R_COMPUTE], levels.shape[0]
    slowest, fill, energy, bound = 0.0, 0.0, 0.0, col.BOUND_COMPUTE
    at_home, latency, inside, stall = 0.0, 0.0, 0.0, 0.0
    for level in range(count):
        rate = levels[level, col.L_RATE]
        if level == 0 and count > 1:
            per_unit = edge_bytes(
                engine, part_instances, part_m, part_n, k, inputs * input_share, weights * weight_share,
                outputs * output_share,
            )  # fmt: skip
            moved = per_unit * used
        else:
            take_w = weights if weight_home >= level and levels[level, col.L_WEIGHTS] > 0 else 0.0
            take_i = inputs if act_home >= level and levels[level, col.L_ACTIVATIONS] > 0 else 0.0
            take_o = outputs if take_i > 0 else 0.0
            if level == weight_home:
                take_w *= 1 - point[col.P_RESIDENT]
            if take_w + take_i == 0.0:
                continue
            if count == 1 or levels[level, col.L_BUFFER_SHARED] > 0:
                tile_stream(
                    instances, m, n, k, take_i, take_w, take_o, levels[level], compute, engine, stream
                )
                whole_bursts(stream, levels[level, col.L_BURST])
                moved = stream[col.S_INPUT] + stream[col.S_WEIGHT] + stream[col.S_OUTPUT]
                per_unit = moved / used
            else:
                tile_stream(
                    part_instances, part_m, part_n, k, take_i * input_share, take_w * weight_share,
                    take_o * output_share, levels[level], compute, engine, stream,
                )  # fmt: skip
                whole_bursts(stream, levels[level, col.L_BURST])
                per_unit = stream[col.S_INPUT] + stream[col.S_WEIGHT] + stream[col.S_OUTPUT]
                moved = per_unit * used
            if level == home:
                result[col.R_STREAM : col.R_STREAM + col.STREAM_COLUMNS] = stream
                latency = levels[level, col.L_LATENCY]
                fill = ends_bytes(stream, prefetch) / rate + latency
        result[col.R_LEVELS + level] = moved
        energy += moved * levels[level, col.L_PJ]
        cycles = (moved if levels[level, col.L_SHARED] > 0 else per_unit) / rate
        if cycles > slowest and (level > 0 or count == 1):
            slowest = cycles
            if cycles > compute:
                bound = level
        if level == home and (level > 0 or count == 1):
            at_home = cycles
            stall = levels[level, col.L_EXPOSED] * per_unit / rate
        elif level > 0:
            inside = max(inside, cycles)
    result[col.R_MEMORY], result[col.R_FILL], result[col.R_MEMORY_PJ] = slowest, fill, energy
    result[col.R_BOUND], result[col.R_HOME] = bound, home
    # The first load and the last store are part of the home memory's own time; the wait for the first byte is not.
    result[col.R_STALL] = stall
    result[col.R_RUNNING] = max(max(compute + stall, inside) + fill, at_home + latency)


@jit
def _price_orders(
    orders: Table,
    terms: Table,
    count: int,
    shape: NDArray[np.int64],
    result: Row,
    levels: Table,
    lanes: float,
) -> None:
    """What each order costs alone on one unit: the traffic in proportion to its bytes, and its energy.

    ``lanes`` networks of an ensemble share the shared memories in equal parts.
    """
    whole = result[col.R_WEIGHT_BYTES] + result[col.R_ACT_BYTES]
    for t in range(count):
        own = terms[t, col.T_GROUPS] * terms[t, col.T_N] * terms[t, col.T_K] * terms[t, col.T_BITS] / 8
        if shape[col.D_WINDOW] == 0:
            own *= shape[col.D_BATCH]
        share = min(1.0, (own + result[col.R_ACT_BYTES]) / whole)
        orders[t, col.O_PJ] += result[col.R_MEMORY_PJ] * share
        orders[t, col.O_CYCLES] += result[col.R_STALL] * share
        for level in range(1, levels.shape[0]):
            moved = result[col.R_LEVELS + level] * share
            rate = levels[level, col.L_RATE] / (lanes if levels[level, col.L_SHARED] > 0 else 1.0)
            orders[t, col.O_CYCLES] = max(orders[t, col.O_CYCLES], moved / rate)


@jit
def _price_on(
    units: int, point: Row, shape: NDArray[np.int64], terms: Table, engine: Row, levels: Table, constants: Row,
    result: Row, stream: Row,
) -> None:  # fmt: skip
    """Price one point on at most ``units`` units; ``result`` holds its compute already."""
    way, count = int(point[col.P_WAY]), int(point[col.P_TERMS])
    used = 1
    if way == col.WAY_ROWS:
        split = result[col.R_SPLIT]
        parts = shape[col.D_BATCH] * shape[col.D_GROUPS]
        if engine[col.E_KIND] == 1:
            parts *= shape[col.D_N] * shape[col.D_M]
        elif split == col.SPLIT_N:
            parts = shape[col.D_N]
        elif split == col.SPLIT_M:
            parts = shape[col.D_M]
        used = min(units, parts)
    elif way == col.WAY_TERMS:
        used = min(units, count)
    result[col.R_UNITS] = used
    _price_memory(units, point, shape, engine, levels, constants[3] > 0, result, stream)
    result[col.R_LAUNCH] = point[col.P_START]
    fixed = result[col.R_LAUNCH]
    if used > 1:
        fixed += constants[1]
    if way == col.WAY_TERMS:
        fixed += shape[col.D_OUTPUTS] * (count - 1) / constants[2]
    running = result[col.R_RUNNING]
    result[col.R_FIXED], result[col.R_CYCLES] = fixed, running + fixed
    if fixed > running:
        result[col.R_BOUND] = col.BOUND_LAUNCH


@jit
def _search_units(
    point: Row, shape: NDArray[np.int64], terms: Table, engine: Row, levels: Table, constants: Row,
    result: Row, trial: Row, orders: Table, stream: Row,
) -> None:  # fmt: skip
    """Split over fewer units where that is faster: each one reads the operand that is not split for itself.

    No number of units whose compute alone takes longer than the best so far can be better.
    """
    for units in range(int(constants[0]) - 1, 1, -1):
        trial[:] = 0.0
        _price_compute(point, shape, terms, engine, units, trial, orders)
        if trial[col.R_COMPUTE] + result[col.R_LAUNCH] + constants[1] >= result[col.R_CYCLES]:
            continue
        _price_on(units, point, shape, terms, engine, levels, constants, trial, stream)
        if trial[col.R_CYCLES] < result[col.R_CYCLES] * (1 - 1e-9):
            result[:] = trial


@jit
def price_options(
    dims: NDArray[np.int64],
    points: Table,
    terms: NDArray[np.float64],
    engines: Table,
    levels: Table,
    constants: Row,
    results: Table,
    orders: NDArray[np.float64],
) -> None:
    """Fill ``results`` and ``orders``, a row a point.

    ``constants``: units, sync, additions a cycle, whether weights are fetched ahead.
    """
    units = int(constants[0])
    stream, trial = np.zeros(col.STREAM_COLUMNS), np.zeros(col.RESULT_COLUMNS)
    for index in range(points.shape[0]):
        point, result, term, order = points[index], results[index], terms[index], orders[index]
        shape, engine = dims[int(point[col.P_DIMS])], engines[int(point[col.P_ENGINE])]
        _price_compute(point, shape, term, engine, units, result, order)
        _price_on(units, point, shape, term, engine, levels, constants, result, stream)
        if point[col.P_WAY] == col.WAY_ROWS:
            _search_units(point, shape, term, engine, levels, constants, result, trial, order, stream)
        _price_orders(order, term, int(point[col.P_TERMS]), shape, result, levels, point[col.P_LANES])
