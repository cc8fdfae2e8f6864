"""Residual chains of a weight matrix for all bit widths in one compiled pass (methods.md 2.2, 2.10).

For b bits let B = 2^b - 1. A row with largest magnitude m starts with the step s_1 = 2m/B, whose B cells
tile [-m, m] exactly, and every further order divides the step by B: K orders are one uniform grid of B^K
cells, so |error| <= s_1 / 2 * B^-(K-1). The chain of a row does not depend on which other rows are kept,
hence the error of every sparse option follows from the tables built here: energy after n terms for each
row (or column). With one bit the term is the mean magnitude times the sign.

Each row takes the start that suits its final number of terms n (trap P4): the tiling step, or m / (2^(b-1) - 1)
where the weights lie on that grid, or, where B^n <= 64 cells make clipping worth while, the best of a few clipped
ranges, judged on a histogram of the row and taken only where the exact error is smaller.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from quant.jit import jit

FloatArray = NDArray[np.float32]

BINS = 128
CLIPPED_CELLS = 64
CLIP_FACTORS = np.linspace(0.36, 0.96, 16).astype(np.float32)


@dataclass(frozen=True)
class ChainTables:
    """What remains of a weight after n terms; first axes are [width, n - 1].

    `row_*` sum over the columns of a row, `column_*` over the rows of a column (tiling start in every row).
    `moment` weights the squared residual with the second moment of the input, `fisher` with the squared
    gradient of the log-likelihood. `start` is the first step of a row that will receive n terms.
    """

    bits: tuple[int, ...]
    start: FloatArray
    row_energy: FloatArray
    row_moment: FloatArray
    row_fisher: FloatArray
    row_sup: FloatArray
    row_magnitude: FloatArray  # sum of |residual|
    row_max: FloatArray  # [O]: largest |w|
    column_energy: FloatArray
    column_moment: FloatArray
    column_fisher: FloatArray
    column_sup: FloatArray
    weight_energy: float


def chain_tables(
    weight: FloatArray,
    bits: tuple[int, ...],
    orders: int,
    moments: FloatArray | None = None,
    fisher: FloatArray | None = None,
    *,
    by_column: bool = True,
    chunks: int = 16,
) -> ChainTables:
    """Run the chains of all `bits` to depth `orders` over a finite (O, I) float32 weight.

    Without `by_column` the tables of the columns stay empty: a third of the work where no option needs them.
    """
    rows, columns = weight.shape
    row = np.zeros((6, len(bits), orders, rows), np.float32)
    column = np.zeros((3, chunks, len(bits), orders, columns if by_column else 0), np.float32)
    row_max = np.zeros(rows, np.float32)
    weights = np.ones(columns, np.float32) if moments is None else np.ascontiguousarray(moments, np.float32)
    squared = np.ones((1, 1), np.float32) if fisher is None else np.ascontiguousarray(fisher, np.float32)
    known = fisher is not None
    with threads_of_torch():
        run_chains(
            np.ascontiguousarray(weight),
            np.array(bits),
            weights,
            squared,
            known,
            row,
            row_max,
            column,
            CLIP_FACTORS,
        )
    energy, weighted = column[:2].sum(axis=1)
    moment = energy * weights[: energy.shape[-1]]
    return ChainTables(
        bits=bits,
        start=row[0],
        row_energy=row[1],
        row_moment=row[2],
        row_fisher=row[3] if known else row[2],
        row_sup=row[4],
        row_magnitude=row[5],
        row_max=row_max,
        column_energy=energy,
        column_moment=moment,
        column_fisher=weighted if known else moment,
        column_sup=column[2].max(axis=0),
        weight_energy=float(np.vdot(weight, weight)),
    )


@contextmanager
def threads_of_torch() -> Generator[None]:
    """Numba computes on as many threads as torch, and leaves torch's number as it was.

    Numba's first parallel call sets the thread count of OpenMP, which torch shares. Torch's later sums would run in
    another order than its earlier ones, and a network planned twice in one process would get two plans.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@partial(jit, fastmath=True)
def descend(
    row: FloatArray, residual: FloatArray, start: np.float32, cells: np.float32, terms: int
) -> np.float32:
    """Subtract `terms` rounded terms from a row, the first with step `start`; returns the energy left."""
    limit = np.float32((cells - 1) / 2)
    residual[:] = row
    step = start
    energy = np.float32(0)
    for _ in range(terms):
        inverse = np.float32(1) / step
        energy = np.float32(0)
        for j in range(row.size):
            code = np.rint(residual[j] * inverse)
            left = residual[j] - step * min(max(code, -limit), limit)
            residual[j] = left
            energy += left * left
        step /= cells
    return energy


@partial(jit, fastmath=True)
def best_clip(counts: FloatArray, cells: np.float32, factors: FloatArray) -> np.float32:
    """Fraction of the range whose uniform grid of `cells` cells fits a histogram of magnitudes best."""
    limit = np.float32((cells - 1) / 2)
    best, least = np.float32(1), np.float32(np.inf)
    for factor in factors:
        step = factor * np.float32(2 / cells)
        inverse = np.float32(1) / step
        error = np.float32(0)
        for k in range(counts.size):
            value = (np.float32(k) + np.float32(0.5)) / np.float32(counts.size)
            gap = value - step * min(np.rint(value * inverse), limit)
            error += counts[k] * gap * gap
        if error < least:
            best, least = factor, error
    return best


@partial(jit, fastmath=True)
def descend_binary(row: FloatArray, residual: FloatArray, terms: int) -> np.float32:
    """Subtract `terms` binary terms, each the mean magnitude times the sign; returns the first scale."""
    residual[:] = row
    first = np.float32(0)
    for n in range(terms):
        total = np.float32(0)
        for j in range(row.size):
            total += abs(residual[j])
        step = total / np.float32(row.size)
        first = step if n == 0 else first
        for j in range(row.size):
            residual[j] -= step if residual[j] >= 0 else -step
    return first


@partial(jit, fastmath=True)
def largest_magnitude(values: FloatArray) -> np.float32:
    """Largest magnitude, found on the bits: a maximum of integers is vectorised, one of floats is not."""
    bits = values.view(np.int32)
    top = np.int32(0)
    for j in range(bits.size):
        top = max(top, bits[j] & np.int32(0x7FFFFFFF))
    return np.array([top], np.int32).view(np.float32)[0]


@partial(jit, fastmath=True)
def record(residual: FloatArray, moments: FloatArray, out: FloatArray) -> None:
    """Store energy, weighted energy, largest and total magnitude of one row's residual in `out[1:]`."""
    e, h, total = np.float32(0), np.float32(0), np.float32(0)
    for j in range(residual.size):
        square = residual[j] * residual[j]
        total += abs(residual[j])
        e += square
        h += square * moments[j]
    out[1], out[2], out[4], out[5] = e, h, largest_magnitude(residual), total


@partial(jit, fastmath=True)
def weighted_energy(residual: FloatArray, weights: FloatArray) -> np.float32:
    """Sum of squares, each with its weight."""
    total = np.float32(0)
    for j in range(residual.size):
        total += residual[j] * residual[j] * weights[j]
    return total


@partial(jit, fastmath=True)
def add_columns(residual: FloatArray, energy: FloatArray, largest: FloatArray) -> None:
    """Add one row's residual to the energy of each column and to its largest magnitude."""
    for j in range(residual.size):
        energy[j] += residual[j] * residual[j]
        largest[j] = max(largest[j], abs(residual[j]))


@partial(jit, fastmath=True)
def add_weighted_columns(residual: FloatArray, weights: FloatArray, energy: FloatArray) -> None:
    """Add one row's weighted residual to the energy of each column."""
    for j in range(residual.size):
        energy[j] += residual[j] * residual[j] * weights[j]


@partial(jit, fastmath=True, parallel=True)
def run_chains(
    weight: FloatArray,
    bits: NDArray[np.int64],
    moments: FloatArray,
    fisher: FloatArray,
    has_fisher: bool,
    table: FloatArray,
    row_max: FloatArray,
    column: FloatArray,
    factors: FloatArray,
) -> None:
    """Fill `table[quantity, width, n - 1, row]` and `column[quantity, chunk, width, n - 1, column]`."""
    rows, columns = weight.shape
    orders = table.shape[2]
    chunks = column.shape[1]
    for chunk in numba.prange(chunks):
        residual = np.empty(columns, np.float32)
        counts = np.empty(BINS, np.float32)
        for i in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            row = weight[i]
            gradients = fisher[i] if has_fisher else fisher[0]
            largest = largest_magnitude(row)
            row_max[i] = largest
            if largest < np.float32(1e-15):
                continue
            counts[:] = 0
            for j in range(columns):
                counts[min(int(abs(row[j]) / largest * np.float32(BINS)), BINS - 1)] += 1
            for b in range(len(bits)):
                cells = np.float32(2.0 ** bits[b] - 1)
                if bits[b] == 1:
                    for n in range(orders):
                        figures = table[:, b, n, i]
                        figures[0] = descend_binary(row, residual, n + 1)
                        record(residual, moments, figures)
                        figures[3] = weighted_energy(residual, gradients) if has_fisher else np.float32(0)
                    continue
                tiling = np.float32(2) * largest / cells
                centred = np.float32(2) * largest / (cells - np.float32(1))
                on_grid = descend(row, residual, centred, cells, 1)
                step = tiling
                for n in range(orders):
                    figures = table[:, b, n, i]
                    descend(row if n == 0 else residual, residual, step, cells, 1)
                    record(residual, moments, figures)
                    step /= cells
                    if has_fisher:
                        figures[3] = weighted_energy(residual, gradients)
                    if column.shape[4]:
                        add_columns(residual, column[0, chunk, b, n], column[2, chunk, b, n])
                        if has_fisher:
                            add_weighted_columns(residual, gradients, column[1, chunk, b, n])
                    figures[0] = centred if on_grid < figures[1] else tiling
                for n in range(orders):
                    start = table[0, b, n, i]
                    grid = np.float32(cells ** (n + 1))
                    clipped = start
                    if grid <= CLIPPED_CELLS:
                        clipped = best_clip(counts, grid, factors) * tiling
                        least = table[1, b, n, i] if start == tiling else on_grid
                        if descend(row, residual, clipped, cells, n + 1) >= least:
                            clipped = start
                    if clipped == start and start != tiling:
                        descend(row, residual, start, cells, n + 1)
                    if clipped != start or start != tiling:
                        figures = table[:, b, n, i]
                        figures[0] = clipped
                        record(residual, moments, figures)
                        if has_fisher:
                            figures[3] = weighted_energy(residual, gradients)
