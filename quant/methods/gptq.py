"""GPTQ: round the columns of a weight one after another and push each error onto the columns still open.

Minimises ``tr((W - V) H (W - V)^T)`` over grid points V, with ``H = E[x x^T]`` of the *quantized* inputs.
Two things differ from the published loop:

* The elementary rounding is pluggable (`Rounder`), so one loop serves plain grids and the K-term
  expansion, where one "rounding" is a sum of K digits. Error feedback stays valid for both.
* The target may be asymmetric: the float layer saw float inputs, the quantized layer sees quantized ones.
  ``|W x_fp - V x_q|^2 = tr((W* - V) H (W* - V)^T) + const`` with ``W* = W C H^-1``, ``C = E[x_fp x_q^T]``,
  so the asymmetric problem is the same loop started from `asymmetric_target`.

All tensors carry a leading group axis (grouped and depthwise convolutions); a linear layer has one group.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quant.errors import QuantError


class Rounder(Protocol):
    """Rounds one column of every row onto its row's grid."""

    def __call__(self, column: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Round ``column`` (G, O), original column number ``index`` (G,): values (G, O), codes (K, G, O)."""
        ...


@dataclass(frozen=True)
class UniformRounder:
    """One integer grid per row: ``value = (clip(round(w / s) + z, low, high) - z) * s``."""

    scale: Tensor  # (G, O)
    zero: Tensor  # (G, O), integers; all zeros for a symmetric grid
    low: int
    high: int

    def __call__(self, column: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest grid point."""
        codes = torch.clamp(torch.round(column / self.scale) + self.zero, self.low, self.high)
        return (codes - self.zero) * self.scale, codes.unsqueeze(0)


@dataclass(frozen=True)
class GptqOptions:
    """Settings of the published implementation are the defaults."""

    damp: float = 0.01
    block: int = 128
    act_order: bool = False


@dataclass(frozen=True)
class GptqResult:
    """Rounded weight and its codes, in the column order of the input."""

    weight: Tensor  # (G, O, I)
    codes: Tensor  # (K, G, O, I)
    dead_columns: int


def second_moment(inputs: Tensor) -> Tensor:
    """``E[x x^T]`` of inputs (G, N, I) in float64: (G, I, I). The constant factor 2 of the paper cancels."""
    wide = inputs.double()
    return wide.transpose(1, 2) @ wide / inputs.shape[1]


def asymmetric_target(weight: Tensor, moment: Tensor, cross: Tensor, damp: float = 0.01) -> Tensor:
    """Weight that best maps quantized inputs to the float layer's outputs, before any rounding.

    ``cross = E[x_fp x_q^T]``. With equal streams it returns ``weight`` itself, whatever the damping:
    the ridge pulls towards ``weight``, not towards zero.
    """
    wide = weight.double()
    size = moment.shape[-1]
    ridge = damp * moment.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    damped = moment + ridge[:, None, None] * torch.eye(size, dtype=moment.dtype)
    pull = wide @ (cross - moment)
    return (wide + torch.linalg.solve(damped, pull.transpose(1, 2)).transpose(1, 2)).to(weight.dtype)


def output_error(delta: Tensor, moment: Tensor) -> Tensor:
    """Mean squared output error ``tr(D H D^T)`` of a weight error D (G, O, I), summed over all groups."""
    wide = delta.double()
    return ((wide @ moment) * wide).sum()


def _inverse_factor(moment: Tensor, damp: float) -> tuple[Tensor, Tensor]:
    """Upper Cholesky factor of the damped inverse, and the mask of columns no input ever reaches."""
    diagonal = moment.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0
    filled = moment + torch.diag_embed(dead.to(moment.dtype))
    ridge = damp * filled.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype)
    for _ in range(8):  # a rank-deficient H with little damping may need more of it
        lower, info = torch.linalg.cholesky_ex(filled + ridge[:, None, None] * eye)
        if not bool(info.any()):
            return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True), dead
        ridge = ridge * 10
    raise QuantError("gptq: the second moment of the inputs is not finite: check the calibration data")


def gptq(weight: Tensor, moment: Tensor, rounder: Rounder, options: GptqOptions | None = None) -> GptqResult:
    """Round ``weight`` (G, O, I) column by column against ``moment`` (G, I, I)."""
    options = options or GptqOptions()
    if weight.dim() != 3 or moment.shape != (weight.shape[0], weight.shape[2], weight.shape[2]):
        raise QuantError(
            f"gptq: weight {tuple(weight.shape)} does not fit second moment {tuple(moment.shape)}: "
            "pass (groups, out, in) and (groups, in, in)"
        )
    groups, rows, columns = weight.shape
    moment = moment.double()
    order = _column_order(moment, options.act_order)
    pick = order[:, None, :].expand(groups, rows, columns)
    work = weight.double().gather(2, pick)
    sorted_moment = moment.gather(1, order[:, :, None].expand(-1, -1, columns))
    sorted_moment = sorted_moment.gather(2, order[:, None, :].expand(-1, columns, -1))
    factor, dead = _inverse_factor(sorted_moment, options.damp)
    work = work.masked_fill(dead[:, None, :], 0.0)
    values = torch.zeros_like(work)
    collected: list[Tensor] = []
    for start in range(0, columns, options.block):
        stop = min(start + options.block, columns)
        errors = torch.zeros(groups, rows, stop - start, dtype=work.dtype)
        for j in range(start, stop):
            value, codes = rounder(work[:, :, j], order[:, j])
            values[:, :, j] = value
            collected.append(codes)
            error = (work[:, :, j] - value) / factor[:, None, j, j]
            work[:, :, j:stop] -= error[:, :, None] * factor[:, None, j, j:stop]
            errors[:, :, j - start] = error
        work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    codes = torch.stack(collected, dim=-1)
    undo = order.argsort(dim=1)
    unpick = undo[:, None, :].expand(groups, rows, columns)
    codes = codes.gather(3, unpick.expand(codes.shape[0], -1, -1, -1))
    return GptqResult(values.gather(2, unpick).to(weight.dtype), codes, int(dead.sum()))


def _column_order(moment: Tensor, act_order: bool) -> Tensor:
    """Columns by falling input energy when asked, else as they are (stable, so runs repeat)."""
    diagonal = moment.diagonal(dim1=1, dim2=2)
    if act_order:
        return diagonal.argsort(dim=1, descending=True, stable=True)
    return torch.arange(moment.shape[-1]).expand(moment.shape[0], -1)
