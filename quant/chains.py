"""Residual chains of a weight matrix for all bit widths in one compiled pass (methods.md 2.2, 2.10).

For b bits let B = 2^b - 1. A row with largest magnitude m starts with the step s_1 = 2m/B, whose B cells
tile [-m, m] exactly, and every further order divides the step by B: K orders are one uniform grid of B^K
cells, so |error| <= s_1 / 2 * B^-(K-1). The chain of a row does not depend on which other rows are kept,
hence the error of every sparse option follows from the tables built here: energy after n terms for each
row (or column). With one bit the term is the mean magnitude times the sign.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ChainTables:
    """What remains of a weight after n terms; first axes are [width, n - 1].

    `row_*` sum over the columns of a row, `column_*` over the rows of a column. `moment` weights the squared
    residual with the second moment of the input, `fisher` with the squared gradient of the log-likelihood.
    """

    bits: tuple[int, ...]
    row_energy: FloatArray
    row_moment: FloatArray
    row_fisher: FloatArray
    row_sup: FloatArray
    row_magnitude: FloatArray  # sum of |residual|
    row_max: FloatArray  # [O]: largest |w|
    column_energy: FloatArray
    column_moment: FloatArray
    column_fisher: FloatArray
    weight_energy: float


def chain_tables(
    weight: FloatArray,
    bits: tuple[int, ...],
    orders: int,
    moments: FloatArray | None = None,
    fisher: FloatArray | None = None,
    chunks: int = 16,
) -> ChainTables:
    """Run the chains of all `bits` to depth `orders` over a (O, I) float32 weight."""
    rows, columns = weight.shape
    shape = (len(bits), orders)
    row = [np.zeros((*shape, rows), np.float32) for _ in range(5)]
    column = [np.zeros((chunks, *shape, columns), np.float32) for _ in range(2)]
    row_max = np.zeros(rows, np.float32)
    weights = np.ones(columns, np.float32) if moments is None else np.ascontiguousarray(moments, np.float32)
    squared = np.ones((1, 1), np.float32) if fisher is None else np.ascontiguousarray(fisher, np.float32)
    run_chains(
        np.ascontiguousarray(weight),
        np.array(bits),
        weights,
        squared,
        fisher is not None,
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        row_max,
        column[0],
        column[1],
    )
    energy = column[0].sum(axis=0)
    moment = energy * weights
    return ChainTables(
        bits,
        row[0],
        row[1],
        row[2] if fisher is not None else row[1],
        row[3],
        row[4],
        row_max,
        energy,
        moment,
        column[1].sum(axis=0) if fisher is not None else moment,
        float(np.vdot(weight, weight)),
    )


@numba.njit(parallel=True, cache=True, fastmath=True, error_model="numpy")
def run_chains(
    weight: FloatArray,
    bits: NDArray[np.int64],
    moments: FloatArray,
    fisher: FloatArray,
    has_fisher: bool,
    energy: FloatArray,
    moment: FloatArray,
    weighted: FloatArray,
    sup: FloatArray,
    magnitude: FloatArray,
    row_max: FloatArray,
    column: FloatArray,
    column_weighted: FloatArray,
) -> None:
    """Fill the tables; see `ChainTables` for their meaning."""
    rows, columns = weight.shape
    orders = energy.shape[1]
    chunks = column.shape[0]
    for chunk in numba.prange(chunks):
        residual = np.empty(columns, np.float32)
        for i in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            largest = np.float32(0)
            for j in range(columns):
                largest = max(largest, abs(weight[i, j]))
            row_max[i] = largest
            if largest < np.float32(1e-30):
                continue
            for b in range(len(bits)):
                cells = np.float32(2.0 ** bits[b] - 1)
                limit = np.float32((cells - 1) / 2)
                step = np.float32(2) * largest / cells
                for j in range(columns):
                    residual[j] = weight[i, j]
                total = np.float32(0)
                if bits[b] == 1:
                    for j in range(columns):
                        total += abs(residual[j])
                for n in range(orders):
                    if bits[b] == 1:
                        step = total / np.float32(columns)
                        for j in range(columns):
                            residual[j] -= step if residual[j] >= 0 else -step
                    else:
                        inverse = np.float32(1) / step
                        for j in range(columns):
                            code = np.rint(residual[j] * inverse)
                            residual[j] -= step * min(max(code, -limit), limit)
                    total = np.float32(0)
                    e = np.float32(0)
                    h = np.float32(0)
                    top = np.float32(0)
                    for j in range(columns):
                        r = residual[j]
                        square = r * r
                        total += abs(r)
                        e += square
                        h += square * moments[j]
                        top = max(top, abs(r))
                        column[chunk, b, n, j] += square
                    if has_fisher:
                        g = np.float32(0)
                        for j in range(columns):
                            square = residual[j] * residual[j] * fisher[i, j]
                            g += square
                            column_weighted[chunk, b, n, j] += square
                        weighted[b, n, i] = g
                    energy[b, n, i] = e
                    moment[b, n, i] = h
                    sup[b, n, i] = top
                    magnitude[b, n, i] = total
                    step /= cells
