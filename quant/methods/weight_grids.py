"""Row grids of weights for the calibrated methods: scales, K-term digits, and the terms they become.

Every method rounds onto the same kind of grid: two's complement codes without a zero point, one scale per output row
and order, later orders on the centred scale ``s_k = s_1 / (2^b - 1)^(k-1)``, dense, by rows or by input columns.
There is one more code below zero than above it, at 2 bits one of four; a scale may be negative, so that this code lies
on the side that needs it. The least-squares rule takes the scale with the least error of the layer's output,
``tr(D H D^T)`` with the second moment H of the inputs. A first scale that clips helps a lone order and hurts later
ones (the residual leaves their reach), so the rule scores the whole chain of orders: it is never worse than max-abs.
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
CANDIDATES = 24
SMALLEST = 0.3
FINE_BITS = 6
"""From here on the steps are so small that squared errors, column by column, choose as well as whole outputs."""


@dataclass(frozen=True, eq=False)
class TermGrid:
    """Grid of a weight (G, O, I): one scale per order and row, and which rows or columns each order covers."""

    scales: Tensor  # (K, G, O) float64, of either sign; 0 where a row has no such order or no weight at all
    columns: Tensor | None  # (K, G, I) bool, or None when every order covers all columns
    bits: int
    rows: Tensor | None = None  # (K, G, O) bool, or None when every order covers all rows

    @property
    def limit(self) -> int:
        """Codes lie in -limit - 1..limit."""
        return 2 ** (self.bits - 1) - 1

    def _codes(self, rest: Tensor, scale: Tensor, live: Tensor) -> Tensor:
        """Nearest codes; 0 where the order is not ``live``."""
        return (rest / _divisor(scale)).round_().clamp_(-self.limit - 1, self.limit) * live

    def __call__(self, column: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Elementary rounding of GPTQ: sum of the digits of one column (G, O)."""
        keep = None
        if self.columns is not None:
            groups = torch.arange(column.shape[0])
            keep = self.columns[:, groups, index]
        codes = torch.empty(self.scales.shape, dtype=column.dtype)
        rest = column.clone()
        for order, scale in enumerate(self.scales):
            live = scale != 0
            if keep is not None:
                live = live & keep[order][:, None]
            code = self._codes(rest, scale, live)
            rest -= code * scale
            codes[order] = code
        return column - rest, codes

    def nearest(self, weight: Tensor) -> Tensor:
        """Digits of every element on its own: codes (K, G, O, I)."""
        rest = weight.double().clone()
        found: list[Tensor] = []
        for order, scale in enumerate(self.scales):
            wide = scale[:, :, None]
            live = wide != 0
            if self.columns is not None:
                live = live & self.columns[order][:, None, :]
            code = self._codes(rest, wide, live)
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
            kept = None if self.rows is None else self.rows[order].flatten()
            if kept is not None and bool(kept.any()) and not bool(kept.all()):
                rows = torch.nonzero(kept).flatten().to(torch.int32)
                part, scale = part[rows.long()], scale[rows.long()]
            if self.columns is not None and not bool(self.columns[order].all()):
                cols = torch.nonzero(self.columns[order][0]).flatten().to(torch.int32)
                part = part[:, cols.long()]
            divisor = _divisor(scale).float()
            made.append(Term(part.to(stored).contiguous(), divisor, self.bits, rows=rows, cols=cols))
        return tuple(made)


def row_scales(
    weight: Tensor, bits: int, rule: ScaleRule, moment: Tensor | None = None, order: int = 1
) -> Tensor:
    """First-order scale of each row of (G, O, I); ``mse`` is told the second moment (G, I, I) of the inputs.

    Its diagonal (G, I) does where squared errors are weighed column by column.
    """
    # scales are stored in float32: round first, so that codes and stored scale belong together
    peak = (weight.double().abs().amax(2) / (2 ** (bits - 1) - 1)).float().double()
    if rule == "minmax":
        return peak
    energy = _diagonal(moment)
    if bits >= FINE_BITS:
        return _best_scale(weight, bits, order, peak, energy)[0]
    upright, turned = (_best_scale(weight, bits, order, side, energy, step=2)[1] for side in (peak, -peak))
    peak = torch.where(turned < upright, -peak, peak)
    return _best_scale(weight, bits, order, peak, moment)[0]


def _best_scale(
    weight: Tensor, bits: int, order: int, peak: Tensor, moment: Tensor | None, step: int = 1
) -> tuple[Tensor, Tensor]:
    """Of shares of ``peak``, the first scale of each row whose chain of orders leaves least, and what it leaves.

    ``step`` skips shares. Errors are compared in float32.
    """
    weight, limit = weight.float(), 2 ** (bits - 1) - 1
    moment = None if moment is None else moment.float()
    least, chosen = torch.full_like(peak, torch.inf, dtype=torch.float32), peak
    for share in torch.linspace(1.0, SMALLEST, CANDIDATES, dtype=torch.float64)[::step]:
        scale = (peak * share).float()
        width, rest = _divisor(scale)[:, :, None], weight
        for _ in range(order):
            rest = rest - (rest / width).round_().clamp_(-limit - 1, limit).mul_(width)
            width = width / (2.0**bits - 1)
        error = _output_error(rest, moment)
        better = error < least
        least, chosen = torch.where(better, error, least), torch.where(better, scale.double(), chosen)
    return chosen, least


def _output_error(rest: Tensor, moment: Tensor | None) -> Tensor:
    """Mean squared output error of each row (G, O); of a moment's diagonal (G, I), or none, without cross terms."""
    if moment is None:
        return rest.square().sum(2)
    if moment.dim() == 2:
        return (rest.square() * moment[:, None, :]).sum(2)
    return ((rest @ moment) * rest).sum(2)


def _diagonal(moment: Tensor | None) -> Tensor | None:
    return moment if moment is None or moment.dim() == 2 else moment.diagonal(dim1=1, dim2=2)


def _divisor(scale: Tensor) -> Tensor:
    """The scale, 1 where it is 0."""
    return torch.where(scale != 0, scale, torch.ones_like(scale))


def term_grid(weight: Tensor, scheme: Scheme, rule: ScaleRule, moment: Tensor | None = None) -> TermGrid:
    """Grid of a weight (G, O, I) under a scheme; rows and columns of later orders by residual energy."""
    bits = scheme.weight_bits
    if bits is None or bits < 2 or scheme.binary_last:
        raise QuantError(f"scheme {scheme}: calibrated methods round to 2 or more bits in every term")
    groups, rows, columns = weight.shape
    first = row_scales(weight, bits, rule, moment, scheme.order)
    energy = _diagonal(moment)
    ratio = 2.0**bits - 1
    scales = [first]
    masks = [torch.ones(groups, columns, dtype=torch.bool)]
    kept = [torch.ones(groups, rows, dtype=torch.bool)]
    for order in range(1, scheme.order):
        current = TermGrid(torch.stack(scales), torch.stack(masks), bits)
        residual = (weight.double() - current.value(current.nearest(weight))).square()
        if energy is not None:
            residual = residual * energy.double()[:, None, :]
        applied = torch.stack([(scale != 0).double() for scale in scales]).sum(0)
        scale = (first / ratio**applied).float().double()
        mask, here = torch.ones(groups, columns, dtype=torch.bool), torch.ones(groups, rows, dtype=torch.bool)
        share = scheme.shares[order]
        if share < 1 and scheme.axis == "rows":
            here = _top(residual.sum(2).flatten(), share).reshape(groups, rows)
            scale = scale * here
        elif share < 1:
            if groups > 1:
                raise QuantError(f"scheme {scheme}: input columns of a grouped convolution cannot be dropped")
            mask = _top(residual.sum((0, 1)), share)[None, :]
        scales.append(scale)
        masks.append(mask)
        kept.append(here)
    return TermGrid(torch.stack(scales), _unless_all(masks), bits, _unless_all(kept))


def _unless_all(masks: list[Tensor]) -> Tensor | None:
    """The masks of all orders together; None where they cover everything."""
    covered = torch.stack(masks)
    return None if bool(covered.all()) else covered


def _top(score: Tensor, share: float) -> Tensor:
    """The ceil(share * n) largest, as a mask."""
    count = int(-(-share * len(score) // 1))
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask


def grouped(weight: Tensor, groups: int) -> Tensor:
    """A linear or convolution weight as (G, O/G, I)."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)
