"""Ranges of quantizers: min-max, percentile, exact least-squares clipping, and ranges from BN/LN parameters.

The mean squared error of a clipped uniform quantizer, step^2 / 12 inside the range plus the squared overshoot
outside, depends on the data only through sums over the values beyond the clipping points. Sorted prefix sums
give these for every candidate at once: O(N log N) instead of one pass over the data per candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant.errors import QuantError

# Larger tensors are thinned evenly before a range is searched: the range hardly moves.
SAMPLE = 1 << 15
CANDIDATES = 64


@dataclass(frozen=True)
class AffineRange:
    """An interval that contains 0 (trap Q2) and the b-bit grid on it; value = (code - zero_point) * scale."""

    low: float
    high: float
    bits: int

    @property
    def scale(self) -> float:
        """Step of the grid, positive even for a constant zero tensor (trap Q1)."""
        step = (self.high - self.low) / (2**self.bits - 1)
        return step if step > 1e-30 else 1.0

    @property
    def zero_point(self) -> int:
        """Code of the value 0, always within 0..2^b-1."""
        return min(max(round(-self.low / self.scale), 0), 2**self.bits - 1)

    def error(self, value: Tensor) -> Tensor:
        """Quantized minus given value."""
        zero = self.zero_point
        codes = torch.clamp(torch.round(value / self.scale), -zero, 2**self.bits - 1 - zero)
        return codes.mul_(self.scale).sub_(value)


def minmax_range(value: Tensor, bits: int) -> AffineRange:
    """Smallest and largest value, extended to 0."""
    if value.numel() == 0:
        raise QuantError("range of an empty tensor: pass at least one value")
    low, high = torch.aminmax(value)
    return AffineRange(min(float(low), 0.0), max(float(high), 0.0), bits)


def percentile_range(value: Tensor, bits: int, percentile: float = 0.9999) -> AffineRange:
    """Quantiles `1 - percentile` and `percentile`, extended to 0."""
    if not 0.5 < percentile <= 1:
        raise QuantError(f"percentile {percentile:g}: use a fraction in (0.5, 1]")
    ordered = _sorted(thinned(value.flatten(), 1 << 20))
    last = len(ordered) - 1
    high = float(ordered[round(percentile * last)])
    low = float(ordered[round((1 - percentile) * last)])
    return AffineRange(min(low, 0.0), max(high, 0.0), bits)


def _sorted(value: Tensor) -> Tensor:
    """Ascending values; numpy's vectorized sort takes a tenth of torch's time."""
    return torch.from_numpy(np.sort(value.detach().numpy()))


def thinned(value: Tensor, size: int) -> Tensor:
    """An evenly spaced sample of at most `size` values that keeps the extremes."""
    if value.numel() <= size:
        return value
    stride = value.numel() // size + 1
    stride += 1 - stride % 2
    low, high = torch.aminmax(value)
    return torch.cat([value[::stride], low[None], high[None]])


def mse_affine_range(value: Tensor, bits: int) -> AffineRange:
    """Range with the least mean squared error among common shrinkages of both ends, then of each end."""
    return mse_affine_ranges(value, (bits,))[0]


def mse_affine_ranges(value: Tensor, bits: Sequence[int]) -> list[AffineRange]:
    """`mse_affine_range` for several widths that share one sort."""
    full = minmax_range(value, 8)
    if full.high == full.low:
        return [AffineRange(full.low, full.high, width) for width in bits]
    ordered = _sorted(thinned(value.flatten(), SAMPLE)).double()
    return [_best_clip(_ClipSearch(ordered, width), full, width) for width in bits]


def _best_clip(search: "_ClipSearch", full: AffineRange, bits: int) -> AffineRange:
    factors = torch.linspace(1.0, 1.0 / CANDIDATES, CANDIDATES, dtype=torch.float64)
    best = int(torch.argmin(search.mse(full.low * factors, full.high * factors)))
    low, high = full.low * float(factors[best]), full.high * float(factors[best])
    ones = torch.ones_like(factors)
    if full.low < 0 < full.high:
        ends = full.high * factors
        high = float(ends[int(torch.argmin(search.mse(low * ones, ends)))])
        ends = full.low * factors
        low = float(ends[int(torch.argmin(search.mse(ends, high * ones)))])
    return AffineRange(low, high, bits)


class _ClipSearch:
    """Mean squared error of many clipping intervals over one sorted sample."""

    def __init__(self, ordered: Tensor, bits: int) -> None:
        zero = ordered.new_zeros(1)
        self.ordered = ordered
        self.levels = 2**bits - 1
        self.sum = torch.cat([zero, ordered.cumsum(0)])
        self.square = torch.cat([zero, ordered.pow(2).cumsum(0)])

    def mse(self, low: Tensor, high: Tensor) -> Tensor:
        """Rounding plus clipping error of each interval."""
        count = len(self.ordered)
        below = torch.searchsorted(self.ordered, low)
        above = torch.searchsorted(self.ordered, high, right=True)
        step = (high - low) / self.levels
        inside = (above - below) * step.pow(2) / 12
        under = self.square[below] - 2 * low * self.sum[below] + below * low.pow(2)
        rest, rest_square = self.sum[-1] - self.sum[above], self.square[-1] - self.square[above]
        over = rest_square - 2 * high * rest + (count - above) * high.pow(2)
        return (inside + under + over) / count
