"""Residual expansion: a weight as a sum of low-bit integer terms (PIPE / REx; methods.md 2.2-2.4, 2.7, 9.8).

    R_1 = W;   C_k = round(R_k / s_k) within +-(2^(b-1)-1);   R_(k+1) = R_k - s_k C_k;   W ~ sum_k s_k C_k

with one scale per row and order. The rules differ in the scales:

    maxabs    s_k = max|R_k| / n                       the paper's; n = 2^(b-1) - 1
    centred   s_1 = max|W| / n,     s_(k+1) = s_k / B   B = 2^b - 1: levels centred in equal cells
    tiled     s_1 = 2 max|W| / B,   s_(k+1) = s_k / B   the B^K cells tile the range of the row exactly
    pow2      tiled, rounded up to a power of two, s_(k+1) = s_k / 2^(b-1): terms add by shifts
    joint     tiled, centred or clipped, row by row, whichever fits best at the row's final number of terms

`joint` is the default and never worse than `tiled` in squared error. The others have the prefix property: the
first k terms of a longer expansion are the shorter expansion.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from quant.chains import chain_tables
from quant.errors import QuantError
from quant.first_order import FirstOrder
from quant.scheme import Scheme
from quant.sparsity import column_counts_by_order, term_counts_by_order, without_idle_axis
from quant.terms import Term, weight_of

ScaleRule = Literal["joint", "tiled", "centred", "maxabs", "pow2"]
# Below this a row counts as zero: its scales would leave the float32 range (traps Q1, P9).
SMALLEST = 1e-15
EPSILON = 2.0**-23


@dataclass(frozen=True, eq=False)
class Expansion:
    """Terms of one weight, in the order of their size.

    Invariants: the first term covers the whole matrix; `start[i]` is the first scale of row i and
    `clipped[i]` how far its largest weight lies outside the reach of its terms (0 for most rules);
    `first_error` is the largest error that a special first-order operator left in each row;
    `counts` is the number of terms each row (or, by columns, each column) received.
    """

    terms: tuple[Term, ...]
    matrix: tuple[int, int]
    scheme: Scheme
    rule: ScaleRule
    counts: Tensor
    first_error: Tensor | None = None

    def weight(self, orders: int | None = None) -> Tensor:
        """The float32 weight that the first `orders` terms stand for."""
        return weight_of(self.terms[:orders], self.matrix)


def expand(
    weight: Tensor,
    scheme: Scheme,
    *,
    moments: Tensor | None = None,
    rule: ScaleRule = "joint",
    first: FirstOrder | None = None,
    kernel: int = 1,
) -> Expansion:
    """Expand a weight as `scheme` says.

    Args:
        weight: (O, I) or a convolution's (O, I, *kernel); a row is an output channel, whatever its group.
        scheme: bits, orders, shares and axis.
        moments: second moments of the columns, to rank them where the scheme keeps columns.
        rule: how the scales are chosen.
        first: another operator for the first order; later orders then take their range from what it leaves.
        kernel: adjacent columns that belong to one input channel and are kept together.
    """
    if scheme.weight_bits is None:
        raise QuantError("scheme fp: a layer in float has no terms")
    kernel = kernel * int(np.prod(weight.shape[2:], dtype=np.int64))
    scheme = without_idle_axis(scheme)
    flat = weight.detach().reshape(weight.shape[0], -1)
    if not bool(torch.isfinite(flat).all()):
        raise QuantError("weight holds NaN or infinity: it cannot be quantized")
    work = _Chain(flat, scheme, rule if scheme.axis == "rows" or rule != "joint" else "tiled", first)
    if scheme.axis == "rows":
        terms, counts = _by_rows(work, scheme)
    else:
        terms, counts = _by_columns(work, scheme, moments, kernel)
    left = None
    if first is not None:
        codes, scale = terms[0].codes.to(torch.float64), terms[0].scale.to(torch.float64)
        left = (work.flat - codes * scale[:, None]).abs().amax(1)
    return Expansion(terms, (flat.shape[0], flat.shape[1]), scheme, rule, counts, left)


def make_terms(name: str, weight: Tensor, scheme: Scheme, moments: Tensor | None) -> tuple[Term, ...]:
    """`expand` in the form in which `quant.qmodel` asks for terms; errors name the layer."""
    try:
        return expand(weight, scheme, moments=moments).terms
    except QuantError as error:
        raise QuantError(f"{name}: {error}") from error


@dataclass(frozen=True)
class _Step:
    """One order over the whole matrix: codes, scale of each row, and what it leaves."""

    codes: Tensor
    scale: Tensor
    residual: Tensor


class _Chain:
    """The dense chain of every row, in float64, and the energies that rank the rows."""

    def __init__(self, flat: Tensor, scheme: Scheme, rule: ScaleRule, first: FirstOrder | None) -> None:
        assert scheme.weight_bits is not None
        self.bits = scheme.weight_bits
        self.cells = 2.0**self.bits - 1
        self.depth = scheme.order - int(scheme.binary_last)
        self.rule = rule
        self.first = first
        self.flat = flat.to(torch.float64)
        self.peak = self.flat.abs().amax(1) if flat.shape[1] else self.flat.new_zeros(len(flat))
        self._check_resolution()
        self.tables = None
        if rule == "joint" and first is None:
            matrix = flat.to(torch.float32).numpy()
            self.tables = chain_tables(matrix, (self.bits,), max(1, self.depth), by_column=False)

    def _check_resolution(self) -> None:
        """Trap P9: a last scale below the resolution of float32 beside the first is no term at all."""
        ratio = 2.0 ** (self.bits - 1) if self.rule == "pow2" else max(self.cells, 2.0)
        if ratio ** -(self.depth - 1) < EPSILON:
            raise QuantError(
                f"order {self.depth} at {self.bits} bits: the last scale is below the resolution of float32; "
                "use fewer orders"
            )

    def starts(self, counts: np.ndarray) -> Tensor:
        """First scale of each row, given its final number of terms."""
        if self.tables is not None:
            chosen = self.tables.start[0][counts - 1, np.arange(len(counts))]
            return torch.from_numpy(chosen).to(torch.float64)
        if self.rule in ("centred", "maxabs"):
            return self.peak / ((self.cells - 1) / 2) if self.bits > 1 else self.peak
        start = 2 * self.peak / self.cells
        return torch.exp2(torch.ceil(torch.log2(start.clamp_min(SMALLEST)))) if self.rule == "pow2" else start

    def steps(self, start: Tensor) -> list[_Step]:
        """All orders over all rows."""
        residual, steps = self.flat, []
        scale = start
        for order in range(self.depth):
            if order == 0 and self.first is not None:
                codes, scale = self.first(self.flat, self.bits)
                codes, scale = codes.to(torch.float64), scale.to(torch.float64)
            else:
                codes, scale = self._round(residual, scale)
            residual = residual - codes * scale[:, None]
            steps.append(_Step(codes, scale, residual))
            scale = self._next(scale, residual, order)
        return steps

    def _round(self, residual: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        if self.bits == 1:
            return binary_codes(residual)
        scale = torch.where(self.peak >= SMALLEST, scale, 1.0).to(torch.float32).to(torch.float64)
        limit = (self.cells - 1) / 2
        codes = torch.round(residual / scale[:, None]).clamp(-limit, limit)
        return codes * (self.peak >= SMALLEST)[:, None], scale

    def _next(self, scale: Tensor, residual: Tensor, order: int) -> Tensor:
        if self.rule == "maxabs" or (order == 0 and self.first is not None):
            left = residual.abs().amax(1)
            # A residual of 0 keeps the old scale: any positive one gives zero codes.
            wanted = left / ((self.cells - 1) / 2) if self.rule == "maxabs" else 2 * left / self.cells
            return torch.where(wanted > 1e-30, wanted, scale)
        return scale / (2.0 ** (self.bits - 1) if self.rule == "pow2" else self.cells)

    def energies(self) -> np.ndarray:
        """Residual energy of each row after 1, 2, ... terms, to rank rows."""
        if self.tables is not None:
            return self.tables.row_energy[0]
        steps = self.steps(self.starts(np.full(len(self.flat), self.depth)))
        return np.stack([step.residual.square().sum(1).numpy() for step in steps])


def binary_codes(residual: Tensor) -> tuple[Tensor, Tensor]:
    """The best one-bit term: mean magnitude times the sign (methods.md 2.7)."""
    scale = residual.abs().mean(1) if residual.numel() else residual.new_zeros(len(residual))
    scale = scale.to(torch.float32).to(residual.dtype)
    return torch.where(residual < 0, -1.0, 1.0).to(residual.dtype), scale


def _by_rows(work: _Chain, scheme: Scheme) -> tuple[tuple[Term, ...], Tensor]:
    energies = work.energies() if scheme.kept else np.zeros((work.depth, len(work.flat)))
    history = term_counts_by_order(energies, scheme.shares)
    final = history[work.depth - 1]
    steps = work.steps(work.starts(final))
    terms: list[Term] = [_term(steps[0], work.bits)]
    for order in range(1, work.depth):
        rows = np.flatnonzero(history[order] > history[order - 1])
        terms.append(_merge(steps, history[order - 1], rows, work.bits))
    if scheme.binary_last:
        rows = np.flatnonzero(history[-1] > history[-2])
        residual = torch.stack([step.residual for step in steps])[final[rows] - 1, rows]
        codes, scale = binary_codes(residual)
        terms.append(Term(codes.to(torch.int8), scale.to(torch.float32), 1, rows=_index(rows, len(final))))
    return tuple(terms), torch.from_numpy(history[-1].copy())


def _term(step: _Step, bits: int) -> Term:
    return Term(_stored(step.codes, bits), step.scale.to(torch.float32), bits)


def _merge(steps: Sequence[_Step], level: np.ndarray, rows: np.ndarray, bits: int) -> Term:
    """The term that gives each of `rows` its next order: row i is at `level[i]` terms so far."""
    pick = torch.from_numpy(rows)
    depth = torch.from_numpy(level[rows])
    codes = torch.stack([step.codes for step in steps])[depth, pick]
    scale = torch.stack([step.scale for step in steps])[depth, pick]
    return Term(_stored(codes, bits), scale.to(torch.float32), bits, rows=_index(rows, len(level)))


def _by_columns(
    work: _Chain, scheme: Scheme, moments: Tensor | None, kernel: int
) -> tuple[tuple[Term, ...], Tensor]:
    """Later orders keep input columns that all stand at the same number of terms: one scale per row serves."""
    steps = work.steps(work.starts(np.full(len(work.flat), work.depth)))
    columns = work.flat.shape[1]
    weights = torch.ones(columns) if moments is None else moments.reshape(-1).to(torch.float64)
    if weights.numel() * kernel == columns and kernel > 1:
        weights = weights.repeat_interleave(kernel)
    if weights.numel() != columns:
        raise QuantError(f"column moments of {weights.numel()} entries for {columns} columns")
    energy = torch.stack([(step.residual.square().sum(0) * weights) for step in steps])
    energy = energy.reshape(len(steps), -1, kernel).sum(2).numpy()
    history = column_counts_by_order(energy, scheme.shares)
    terms = [_term(steps[0], work.bits)]
    for before, after in pairwise(history):
        channels = np.flatnonzero(after > before)
        step = steps[int(before[channels[0]])] if len(channels) else steps[0]
        cols = (channels[:, None] * kernel + np.arange(kernel)).ravel()
        codes = step.codes[:, torch.from_numpy(cols)]
        index = _index(cols, columns)
        terms.append(Term(_stored(codes, work.bits), step.scale.to(torch.float32), work.bits, cols=index))
    return tuple(terms), torch.from_numpy(history[-1].copy())


def _index(kept: np.ndarray, size: int) -> Tensor | None:
    return None if len(kept) == size else torch.from_numpy(kept.astype(np.int32))


def _stored(codes: Tensor, bits: int) -> Tensor:
    return codes.to(torch.int8 if bits <= 8 else torch.int16)
