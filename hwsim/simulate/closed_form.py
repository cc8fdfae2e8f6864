"""Price every (layer, scheme, engine, way) at once: the closed-form cost model, compiled.

time = max(home memory, max(compute, inner memories) + first load + last store) + latency + launch + synchronisation,
where
"home" is the memory in which the operands live, and compute follows
the engine's closed form (systolic folds as corrected SCALE-Sim; padded tiles for SIMD, dot-product and
tensor-core engines; Bit Fusion's form for bit-composable arrays) and the traffic of each memory is the least
that the tile search finds for the buffer inside it.
"""

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from hwsim.simulate.tiling import ACCUMULATOR_BYTES, search_tiling
from quant.jit import jit

Row = NDArray[np.float64]
Table = NDArray[np.float64]
REGISTER_TILE = 8  # a SIMD kernel keeps a block of at least this many outputs a side in registers


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
def _choose_split(
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
        split = _choose_split(engine, shape, terms[0, col.T_RATE], units, inputs, weight_bytes)
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
    point: Row, shape: NDArray[np.int64], engine: Row, levels: Table, constants: Row, result: Row, stream: Row
) -> None:
    """Traffic, cycles and energy of every memory; the stream of tiles of the home memory.

    The innermost memory costs energy but no time of its own: an engine's rates hold with operands at hand.
    """
    instances, m, n, k = (
        shape[col.D_BATCH] * shape[col.D_GROUPS],
        shape[col.D_M],
        shape[col.D_N],
        shape[col.D_K],
    )
    units, prefetch = int(constants[0]), constants[4] > 0
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
    at_home, latency, elsewhere = 0.0, 0.0, compute
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
        elif level > 0:
            elsewhere = max(elsewhere, cycles)
    result[col.R_MEMORY], result[col.R_FILL], result[col.R_MEMORY_PJ] = slowest, fill, energy
    result[col.R_BOUND], result[col.R_HOME] = bound, home
    # The first load and the last store are part of the home memory's own time; the wait for the first byte is not.
    result[col.R_RUNNING] = max(elsewhere + fill, at_home + latency)


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
        for level in range(1, levels.shape[0]):
            moved = result[col.R_LEVELS + level] * share
            rate = levels[level, col.L_RATE] / (lanes if levels[level, col.L_SHARED] > 0 else 1.0)
            orders[t, col.O_CYCLES] = max(orders[t, col.O_CYCLES], moved / rate)


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

    ``constants``: units, launch, sync, additions a cycle, whether weights are fetched ahead.
    """
    units = int(constants[0])
    stream = np.zeros(col.STREAM_COLUMNS)
    for index in range(points.shape[0]):
        point, result = points[index], results[index]
        shape, engine = dims[int(point[col.P_DIMS])], engines[int(point[col.P_ENGINE])]
        way, count = int(point[col.P_WAY]), int(point[col.P_TERMS])
        used = 1
        if way == col.WAY_ROWS:
            used = units
        elif way == col.WAY_TERMS:
            used = min(units, count)
        result[col.R_UNITS] = used
        _price_compute(point, shape, terms[index], engine, units, result, orders[index])
        if way == col.WAY_ROWS:
            split = result[col.R_SPLIT]
            parts = shape[col.D_BATCH] * shape[col.D_GROUPS]
            if split == col.SPLIT_N:
                parts = shape[col.D_N]
            elif split == col.SPLIT_M:
                parts = shape[col.D_M]
            if engine[col.E_KIND] == 1:
                parts = shape[col.D_BATCH] * shape[col.D_GROUPS] * shape[col.D_N] * shape[col.D_M]
            used = min(units, parts)
            result[col.R_UNITS] = used
        _price_memory(point, shape, engine, levels, constants, result, stream)
        fixed = constants[1]
        if used > 1:
            fixed += constants[2]
        if way == col.WAY_TERMS:
            fixed += shape[col.D_OUTPUTS] * (count - 1) / constants[3]
        running = result[col.R_RUNNING]
        result[col.R_FIXED], result[col.R_CYCLES] = fixed, running + fixed
        if fixed > running:
            result[col.R_BOUND] = col.BOUND_LAUNCH
        _price_orders(orders[index], terms[index], count, shape, result, levels, point[col.P_LANES])
