"""Row grids of weights for the calibrated methods: scales, K-term digits, and the terms they become.

Every method rounds onto the same kind of grid: symmetric codes with one scale per output row and order, later
orders on the centred scale ``s_k = s_1 / (2^b - 1)^(k-1)``, dense, by rows or by input columns. A first scale
that clips helps a lone order and hurts later ones (the residual leaves their reach), so the least-squares rule
scores the whole chain of orders: it is never worse than max-abs.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.scheme import Scheme
from quant.terms import Term

ScaleRule = Literal["minmax", "mse"]
CANDIDATES = 48
SMALLEST = 0.3


@dataclass(frozen=True, eq=False)
class TermGrid:
    """Grid of a weight (G, O, I): one scale per order and row, and which rows or columns each order covers."""

    scales: Tensor  # (K, G, O) float64; 0 where a row has no such order
    columns: Tensor | None  # (K, G, I) bool, or None when every order covers all columns
    bits: int

    @property
    def limit(self) -> int:
        """Codes lie in -limit..limit."""
        return 2 ** (self.bits - 1) - 1

    def __call__(self, column: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Elementary rounding of GPTQ: sum of the digits of one column (G, O)."""
        keep = None
        if self.columns is not None:
            groups = torch.arange(column.shape[0])
            keep = self.columns[:, groups, index]
        codes = torch.empty(self.scales.shape, dtype=column.dtype)
        rest = column.clone()
        for order, scale in enumerate(self.scales):
            live = scale > 0
            if keep is not None:
                live = live & keep[order][:, None]
            safe = torch.where(scale > 0, scale, torch.ones_like(scale))
            code = (rest / safe).round_().clamp_(-self.limit, self.limit) * live
            rest -= code * scale
            codes[order] = code
        return column - rest, codes

    def nearest(self, weight: Tensor) -> Tensor:
        """Digits of every element on its own: codes (K, G, O, I)."""
        rest = weight.double().clone()
        found: list[Tensor] = []
        for order, scale in enumerate(self.scales):
            wide = scale[:, :, None]
            live = wide > 0
            if self.columns is not None:
                live = live & self.columns[order][:, None, :]
            code = (rest / torch.where(wide > 0, wide, torch.ones_like(wide))).round()
            code = code.clamp(-self.limit, self.limit) * live
            rest = rest - code * wide
            found.append(code)
        return torch.stack(found)

    def value(self, codes: Tensor) -> Tensor:
        """Weight (G, O, I) of codes (K, G, O, I)."""
        return (codes.double() * self.scales[:, :, :, None]).sum(0)

    def terms(self, codes: Tensor) -> tuple[Term, ...]:
        """Integer terms of a flattened weight (G*O, I)."""
        made: list[Term] = []
        flat = codes.flatten(1, 2)
        stored = torch.int8 if self.bits <= 8 else torch.int16
        for order in range(len(self.scales)):
            scale = self.scales[order].flatten()
            part, rows, cols = flat[order], None, None
            if order > 0 and bool((scale == 0).any()) and bool((scale > 0).any()):
                rows = torch.nonzero(scale > 0).flatten().to(torch.int32)
                part, scale = part[rows.long()], scale[rows.long()]
            if self.columns is not None and not bool(self.columns[order].all()):
                cols = torch.nonzero(self.columns[order][0]).flatten().to(torch.int32)
                part = part[:, cols.long()]
            safe = torch.where(scale > 0, scale, torch.ones_like(scale))
            made.append(Term(part.to(stored).contiguous(), safe.float(), self.bits, rows=rows, cols=cols))
        return tuple(made)


def row_scales(
    weight: Tensor, bits: int, rule: ScaleRule, energy: Tensor | None = None, order: int = 1
) -> Tensor:
    """First-order scale of each row of (G, O, I); ``mse`` weighs columns by their input energy (G, I)."""
    limit = 2 ** (bits - 1) - 1
    wide = weight.double()
    peak = wide.abs().amax(2) / limit
    # scales are stored in float32: round first, so that codes and stored scale belong together
    peak = peak.float().double()
    if rule == "minmax":
        return peak
    best = torch.full_like(peak, torch.inf)
    chosen = peak
    cost = None if energy is None else energy.double()[:, None, :]
    for factor in torch.linspace(1.0, SMALLEST, CANDIDATES, dtype=torch.float64):
        scale = (peak * factor).float().double()
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))[:, :, None]
        rest = wide
        for _ in range(order):
            rest = rest - (rest / safe).round_().clamp_(-limit, limit) * safe
            safe = safe / (2.0**bits - 1)
        error = rest.square()
        total = (error if cost is None else error * cost).sum(2)
        better = total < best
        best, chosen = torch.where(better, total, best), torch.where(better, scale, chosen)
    return chosen


def term_grid(weight: Tensor, scheme: Scheme, rule: ScaleRule, energy: Tensor | None = None) -> TermGrid:
    """Grid of a weight (G, O, I) under a scheme; rows and columns of later orders by residual energy."""
    bits = scheme.weight_bits
    if bits is None or bits < 2 or scheme.binary_last:
        raise QuantError(f"scheme {scheme}: calibrated methods round to 2 or more bits in every term")
    groups, rows, columns = weight.shape
    first = row_scales(weight, bits, rule, energy, scheme.order)
    ratio = 2.0**bits - 1
    scales = [first]
    masks = [torch.ones(groups, columns, dtype=torch.bool)]
    for order in range(1, scheme.order):
        current = TermGrid(torch.stack(scales), torch.stack(masks), bits)
        residual = (weight.double() - current.value(current.nearest(weight))).square()
        if energy is not None:
            residual = residual * energy.double()[:, None, :]
        applied = torch.stack([(scale > 0).double() for scale in scales]).sum(0)
        scale = (first / ratio**applied).float().double()
        mask = torch.ones(groups, columns, dtype=torch.bool)
        share = scheme.shares[order]
        if share < 1 and scheme.axis == "rows":
            scale = scale * _top(residual.sum(2).flatten(), share).reshape(groups, rows)
        elif share < 1:
            if groups > 1:
                raise QuantError(f"scheme {scheme}: input columns of a grouped convolution cannot be dropped")
            mask = _top(residual.sum((0, 1)), share)[None, :]
        scales.append(scale)
        masks.append(mask)
    covered = torch.stack(masks)
    return TermGrid(torch.stack(scales), None if bool(covered.all()) else covered, bits)


def _top(score: Tensor, share: float) -> Tensor:
    """The ceil(share * n) largest, as a mask."""
    count = int(-(-share * len(score) // 1))
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask


def grouped(weight: Tensor, groups: int) -> Tensor:
    """A linear or convolution weight as (G, O/G, I)."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)
