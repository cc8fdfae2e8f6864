"""Bit Fusion's own cycle model, layer by layer: compute, tiling, loop order and stalls.

Sharma et al., "Bit Fusion: Bit-Level Dynamically Composable Architecture for Accelerating Deep Neural Networks",
ISCA 2018. An array of N × M fusion units computes p = ⌊8/a⌋·⌊8/w⌋ products each and cycle for a-bit activations
and w-bit weights (2 to 8 bits). Compute cycles of a convolution are B·⌈OC/M⌉·OW·OH·KW·KH·⌈IC/(N·p)⌉; the first
layer is unrolled (im2col): B·OH·OW·⌈OC/M⌉·⌈KW·KH·IC/(N·p)⌉. Tiles are powers of two that fit half of each SRAM;
all loop orders are tried. Stalls: the first fill and the last drain, and what the DRAM port cannot hide.

General devices use ``engine_cycles.py``; this module exists to agree with the published simulator to the cycle.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.jit import jit

OUTPUT_BITS = 32
# Which of activations, weights, outputs depends on the loops over batch, width, height, inputs, outputs.
DEPENDS = np.array([[1, 1, 1, 1, 0], [0, 0, 0, 1, 1], [1, 1, 1, 0, 1]], np.int64)
ORDERS = np.array(list(itertools.permutations(range(5))), np.int64)


@dataclass(frozen=True)
class BitFusionArray:
    """The accelerator; the defaults are the Eyeriss-sized configuration of the paper."""

    rows: int = 16
    columns: int = 32
    weight_bytes: int = 65536
    input_bytes: int = 32768
    output_bytes: int = 16384
    bits_per_cycle: int = 192
    widest: int = 8
    narrowest: int = 2

    def products(self, act_bits: int, weight_bits: int) -> int:
        """Products of one fusion unit in a cycle."""
        act, weight = max(act_bits, self.narrowest), max(weight_bits, self.narrowest)
        return (self.widest // act) * (self.widest // weight)


@dataclass(frozen=True)
class BitFusionLayer:
    """A square convolution (kernel, output and stride sides) or, with sides of 1, a matrix product."""

    kernel: int
    output: int
    stride: int
    inputs: int
    outputs: int
    batch: int = 1
    first: bool = False


@dataclass(frozen=True)
class BitFusionCycles:
    """Cycles of the best tiling and order, and how many of them wait for memory."""

    total: int
    stall: int

    @property
    def compute(self) -> int:
        """Cycles in which the array works."""
        return self.total - self.stall


def bitfusion_cycles(
    layer: BitFusionLayer, act_bits: int, weight_bits: int, array: BitFusionArray | None = None
) -> BitFusionCycles:
    """Cycles of one layer at its best tiling and loop order."""
    array = array or BitFusionArray()
    shape = np.array(
        [layer.kernel, layer.output, layer.stride, layer.inputs, layer.outputs, layer.batch, int(layer.first)]
    )
    parallel = array.rows * array.products(act_bits, weight_bits)
    capacity = np.array([array.input_bytes, array.weight_bytes, array.output_bytes], np.float64) * 8 / 2
    total, stall = _search(
        shape, act_bits, weight_bits, parallel, array.columns, capacity, array.bits_per_cycle, DEPENDS, ORDERS
    )
    return BitFusionCycles(int(total), int(stall))


@jit
def _ceil(a: int, b: int) -> int:
    return (a + b - 1) // b


@jit
def _doublings(size: int) -> int:
    """How many powers of two, from 1, up to the first that is not below ``size``."""
    count, power = 1, 1
    while power < size:
        power *= 2
        count += 1
    return count


@jit
def _search(
    shape: NDArray[np.int64], act_bits: int, weight_bits: int, parallel: int, columns: int,
    capacity: NDArray[np.float64], port: int, depends: NDArray[np.int64], orders: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Least cycles over all tiles that fit and all orders; among equals the first found."""
    kernel, side, stride, inputs, outputs, batch, first = shape
    best_total, best_stall = -1, 0
    counts = np.zeros(5, np.int64)
    sizes = np.zeros(3, np.int64)
    for b_step in range(_doublings(batch)):
        b = min(1 << b_step, batch)
        for o_step in range(_doublings(side)):
            o = min(1 << o_step, side)
            for i_step in range(_doublings(inputs)):
                i = min(1 << i_step, inputs)
                for c_step in range(_doublings(outputs if first else _ceil(outputs, columns))):
                    c = min((1 << c_step) * (1 if first else columns), outputs)
                    window = kernel * kernel * i
                    reach = kernel + (o - 1) * stride
                    sizes[0] = (o * o * window if first else reach * reach * i) * b * act_bits
                    sizes[1] = _ceil(window, parallel) * parallel * c * weight_bits
                    sizes[2] = o * o * _ceil(c, columns) * columns * b * OUTPUT_BITS
                    if sizes[0] > capacity[0] or sizes[1] > capacity[1] or sizes[2] > capacity[2]:
                        continue
                    counts[0], counts[1], counts[2] = _ceil(batch, b), _ceil(side, o), _ceil(side, o)
                    counts[3], counts[4] = _ceil(inputs, i), _ceil(outputs, c)
                    steps = _ceil(window, parallel) if first else kernel * kernel * _ceil(i, parallel)
                    compute = b * o * o * _ceil(c, columns) * steps
                    for axis in range(5):
                        compute *= counts[axis]
                    for order in range(orders.shape[0]):
                        stall = _stall(sizes, counts, orders[order], depends, capacity, port, compute)
                        if best_total < 0 or compute + stall < best_total:
                            best_total, best_stall = compute + stall, stall
    return best_total, best_stall


@jit
def _stall(
    sizes: NDArray[np.int64], counts: NDArray[np.int64], order: NDArray[np.int64], depends: NDArray[np.int64],
    capacity: NDArray[np.float64], port: int, compute: int,
) -> int:  # fmt: skip
    """First fill, last drain, and the DRAM traffic between them that compute does not cover.

    From the innermost loop outwards an operand is kept while it fits; once it does not, every loop repeats it.
    """
    moved, kept = 0, 0
    out_moved, out_kept = 0, 0
    for operand in range(3):
        size = sizes[operand]
        largest, fits = size, True
        for position in range(4, -1, -1):
            axis = order[position]
            if not fits:
                size *= counts[axis]
            elif depends[operand, axis] == 1:
                size *= counts[axis]
                if size > capacity[operand]:
                    fits = False
                else:
                    largest = size
        moved += size
        kept += largest
        if operand == 2:
            out_moved, out_kept = size, largest
    between = moved + out_moved - kept - out_kept
    latency = _ceil(kept, port) + _ceil(out_kept, port)
    return max(0, _ceil(between, port) - compute) + latency
