"""What every option of every layer costs in accuracy, bits and bytes: one pass over the weights for all.

All options of one bit width share the residual chain of `quant.chains`; a sparse option only chooses how many
terms each row (or input column) receives, so its error is read off the tables. The predicted loss follows the
error model of the house: half the Fisher-weighted squared error, in nats of output divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.chains import ChainTables, chain_tables
from quant.errors import QuantError
from quant.scheme import Scheme
from quant.sparsity import column_counts_by_order, kept_count, term_counts_by_order, without_idle_axis

FloatArray = NDArray[np.float32]
SCALE_BYTES = 4
INDEX_BYTES = 4
EPSILON = 2.0**-23


@dataclass(frozen=True)
class OptionError:
    """Error and size of one option of one layer.

    `weight_error` is the squared Frobenius norm of the weight error, `relative_error` the same over the
    squared norm of the weight. `output_error` is the expected squared error summed over the outputs of one
    position (needs column moments), `loss` the predicted divergence in nats from the weights alone (needs
    squared gradients). `sup_bound` holds for every weight; `measured_sup` is the largest error found.
    `illustrative` marks a figure that rests on a weight distribution instead of weights.
    """

    scheme: Scheme
    weight_error: float
    relative_error: float
    output_error: float | None
    loss: float | None
    sup_bound: float
    measured_sup: float
    bops: float
    bytes: float
    illustrative: bool = False


def default_schemes(
    bits: Sequence[int] = (2, 3, 4, 5, 6, 8),
    act_bits: int = 8,
    orders: int = 4,
    kept: Sequence[int] = (25, 50, 75, 100),
) -> tuple[Scheme, ...]:
    """Every bit width alone, and with each order and share of rows that float32 can still resolve."""
    plain = [Scheme(b, act_bits) for b in bits]
    expanded = [
        Scheme(b, act_bits, order=order, kept=(percent,))
        for b in bits
        for order in range(2, orders + 1)
        for percent in kept
        if (2**b - 1) ** (order - 1) < 2**22
    ]
    return (*plain, *expanded)


def profile_layer(
    weight: FloatArray,
    schemes: Sequence[Scheme],
    *,
    macs: int = 0,
    groups: int = 1,
    column_moments: FloatArray | None = None,
    squared_gradient: FloatArray | None = None,
) -> list[OptionError]:
    """Errors of all `schemes` of one layer.

    Args:
        weight: linear (O, I) or convolution (O, I/groups, *kernel); rows are output channels.
        schemes: the options; activation bits matter for BOPs only.
        macs: multiply-accumulates of the layer, for BOPs.
        groups: groups of a convolution; input columns can be kept only where there is one group.
        column_moments: second moment of each input: (I,), or of each entry of a row, (I * kernel,).
        squared_gradient: squared gradient of the log-likelihood: like the weight, one per row (O,), or
            (O, 1) / (1, I) to broadcast.
    """
    flat = _as_rows(weight)
    kernel = int(np.prod(weight.shape[2:], dtype=np.int64))
    moments = _per_entry(column_moments, flat.shape[1], kernel)
    fisher, row_fisher = _fisher(squared_gradient, weight.shape, flat.shape)
    weight_schemes = [scheme for scheme in schemes if not scheme.is_float]
    bits = tuple(
        sorted({b for scheme in weight_schemes for b in scheme.term_bits if b > 1 or scheme.weight_bits == 1})
    )
    orders = max((scheme.order for scheme in weight_schemes), default=1)
    by_column = any(without_idle_axis(scheme).axis == "columns" for scheme in weight_schemes)
    tables = chain_tables(flat, bits or (8,), orders, moments, fisher, by_column=by_column)
    reader = _Reader(
        tables, flat.shape, kernel, groups, row_fisher, moments is not None, fisher is not None, macs
    )
    return [reader.read(scheme) for scheme in schemes]


def _as_rows(weight: FloatArray) -> FloatArray:
    if weight.ndim < 2:
        raise QuantError(f"weight of shape {weight.shape}: expected (outputs, inputs, ...)")
    flat = np.ascontiguousarray(weight.reshape(weight.shape[0], -1), dtype=np.float32)
    if not np.isfinite(np.sum(flat, dtype=np.float64)):
        raise QuantError("weight holds NaN or infinity: it cannot be quantized")
    return flat


def _per_entry(moments: FloatArray | None, columns: int, kernel: int) -> FloatArray | None:
    if moments is None or moments.shape == (columns,):
        return moments
    if moments.size * kernel == columns:
        return np.repeat(moments.ravel(), kernel)
    raise QuantError(
        f"column moments of shape {moments.shape}: expected ({columns // kernel},) or ({columns},)"
    )


def _fisher(
    gradient: FloatArray | None, shape: tuple[int, ...], flat: tuple[int, int]
) -> tuple[FloatArray | None, FloatArray | None]:
    """Elementwise squared gradients, or one factor per row."""
    if gradient is None:
        return None, None
    if gradient.shape == shape:
        return np.ascontiguousarray(gradient.reshape(flat), dtype=np.float32), None
    if gradient.shape in ((flat[0],), (flat[0], 1)):
        return None, gradient.reshape(-1)
    if gradient.shape == (1, flat[1]):
        return np.ascontiguousarray(np.broadcast_to(gradient, flat), dtype=np.float32), None
    raise QuantError(
        f"squared gradient of shape {gradient.shape}: expected {shape}, ({flat[0]},) or (1, {flat[1]})"
    )


class _Reader:
    """Reads the error of a scheme off the chain tables; remembers sparse prefixes that options share."""

    def __init__(
        self,
        tables: ChainTables,
        shape: tuple[int, int],
        kernel: int,
        groups: int,
        row_fisher: FloatArray | None,
        has_moments: bool,
        has_fisher: bool,
        macs: int,
    ) -> None:
        self.tables = tables
        self.rows, self.columns = shape
        self.kernel = kernel
        self.groups = groups
        self.row_fisher = row_fisher
        self.has_moments = has_moments
        self.has_fisher = has_fisher
        self.macs = macs
        self._counts: dict[tuple[object, ...], NDArray[np.int64]] = {}
        self._errors: dict[Scheme, tuple[float, float, float | None, float, float]] = {}

    def read(self, scheme: Scheme) -> OptionError:
        if scheme.is_float:
            return self._float(scheme)
        key = Scheme(scheme.weight_bits, None, scheme.order, scheme.kept, scheme.axis, scheme.binary_last)
        if key not in self._errors:
            plain = without_idle_axis(key)
            self._errors[key] = self._by_columns(plain) if plain.axis == "columns" else self._by_rows(plain)
        error, output, loss, bound, sup = self._errors[key]
        norm = self.tables.weight_energy
        return OptionError(
            scheme=scheme,
            weight_error=error,
            relative_error=error / norm if norm else 0.0,
            output_error=output if self.has_moments else None,
            loss=loss,
            sup_bound=bound,
            measured_sup=sup,
            bops=self.macs * scheme.bits_per_weight * (scheme.act_bits or 32),
            bytes=self._bytes(without_idle_axis(scheme)),
        )

    def _float(self, scheme: Scheme) -> OptionError:
        known = self.has_fisher or self.row_fisher is not None
        size = 4.0 * self.rows * self.columns
        bops = 32.0 * 32 * self.macs
        output = 0.0 if self.has_moments else None
        return OptionError(scheme, 0.0, 0.0, output, 0.0 if known else None, 0.0, 0.0, bops, size)

    def _bytes(self, scheme: Scheme) -> float:
        groups = self.rows if scheme.axis == "rows" else self.columns // self.kernel
        total = 0.0
        for share, bits in zip(scheme.shares, scheme.term_bits, strict=True):
            kept = kept_count(share, groups)
            total += kept / groups * self.rows * self.columns * bits / 8
            total += SCALE_BYTES * (kept if scheme.axis == "rows" else self.rows if kept else 0)
            total += INDEX_BYTES * kept if kept < groups else 0
        return total

    def _counts_for(
        self, axis: str, b: int, energy: FloatArray, shares: tuple[float, ...]
    ) -> NDArray[np.int64]:
        key = (axis, b, shares)
        if key not in self._counts:
            count = column_counts_by_order if axis == "columns" else term_counts_by_order
            for depth, counts in enumerate(count(energy, shares), start=1):
                self._counts[axis, b, shares[:depth]] = counts
        return self._counts[key]

    def _bound(self, b: int, terms: NDArray[np.int64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sup bound of rows with a first step `start` after `terms` terms (quant.bounds)."""
        cells = 2.0 ** self.tables.bits[b] - 1
        largest = self.tables.row_max.astype(np.float64)
        allowance = largest * (2 * EPSILON * terms)
        if cells == 1:
            return largest + allowance
        reach = start * cells / 2 * (1 - cells ** -terms.astype(np.float64))
        half = start / 2 * cells ** -(terms - 1.0)
        return np.maximum(half, largest - reach) + allowance

    def _by_rows(self, scheme: Scheme) -> tuple[float, float, float | None, float, float]:
        assert scheme.weight_bits is not None
        tables, b = self.tables, self.tables.bits.index(scheme.weight_bits)
        shares = scheme.shares
        counts = self._counts_for("rows", b, tables.row_energy[b], shares)
        binary = np.zeros(self.rows, dtype=bool)
        if scheme.binary_last:
            before = self._counts_for("rows", b, tables.row_energy[b], shares[:-1])
            binary, counts = counts > before, before
        pick = (counts - 1, np.arange(self.rows))
        energy = tables.row_energy[b][pick].astype(np.float64)
        mean = tables.row_magnitude[b][pick].astype(np.float64) / self.columns
        shrink = np.where(binary & (energy > 0), 1 - self.columns * mean**2 / np.maximum(energy, 1e-300), 1.0)
        sup = np.where(binary, np.maximum(tables.row_sup[b][pick] - mean, mean), tables.row_sup[b][pick])
        bound = self._bound(b, counts, tables.start[b][pick].astype(np.float64))
        if scheme.binary_last:
            rounding = 4 * EPSILON * tables.row_max.astype(np.float64)
            bound = np.where(binary, np.maximum(bound - mean, mean) + rounding, bound)
        loss: float | None = None
        if self.has_fisher:
            loss = 0.5 * float(tables.row_fisher[b][pick] @ shrink)
        elif self.row_fisher is not None:
            loss = 0.5 * float((energy * shrink) @ self.row_fisher) / self.columns
        output = float(tables.row_moment[b][pick] @ shrink)
        return float(energy @ shrink), output, loss, float(bound.max()), float(sup.max())

    def _by_columns(self, scheme: Scheme) -> tuple[float, float, float | None, float, float]:
        assert scheme.weight_bits is not None
        if self.groups != 1:
            raise QuantError(f"scheme {scheme}: input columns can be kept only in layers with one group")
        tables, b = self.tables, self.tables.bits.index(scheme.weight_bits)
        channels = self.columns // self.kernel
        by_channel = [
            table[b].reshape(table.shape[1], channels, self.kernel).sum(axis=2)
            for table in (tables.column_energy, tables.column_moment, tables.column_fisher)
        ]
        counts = self._counts_for("columns", b, by_channel[1], scheme.shares)
        pick = (counts - 1, np.arange(channels))
        loss = None
        if self.has_fisher:
            loss = 0.5 * float(by_channel[2][pick].sum())
        elif self.row_fisher is not None:
            loss = self._loss_of_rows(b, counts)
        least = int(counts.min())
        cells = 2.0 ** tables.bits[b] - 1
        tiling = 2 * tables.row_max.astype(np.float64) / cells
        bound = self._bound(b, np.full(self.rows, least), tiling)
        sup_by_channel = tables.column_sup[b].reshape(-1, channels, self.kernel).max(axis=2)
        sup = float(sup_by_channel[pick].max())
        return (
            float(by_channel[0][pick].sum()),
            float(by_channel[1][pick].sum()),
            loss,
            float(bound.max()),
            sup,
        )

    def _loss_of_rows(self, b: int, counts: NDArray[np.int64]) -> float:
        """Loss with one gradient per row: every row has its columns' mix of term counts."""
        assert self.row_fisher is not None
        share = np.bincount(counts, minlength=counts.max() + 1)[1:] / counts.size
        per_row = self.tables.row_energy[b][: share.size].astype(np.float64) @ self.row_fisher / self.columns
        return 0.5 * float(share @ per_row)
