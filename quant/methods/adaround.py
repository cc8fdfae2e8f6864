"""AdaRound: learn for each weight whether to round down or up (rectified sigmoid, PD-Quant's constants).

``h(alpha) = clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``, ``W_int = floor(W / s) + h``; alpha starts where h equals the
fractional part, so the soft weight starts at the float weight; hard rounding is up exactly where alpha >= 0.
For a K-term layer the last order's residual is what is rounded.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.terms import Term, weight_of

ZETA, GAMMA = 1.1, -0.1


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """``clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``."""
    return (torch.sigmoid(alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(fraction: Tensor) -> Tensor:
    """Alpha with ``h(alpha) = fraction``."""
    share = ((fraction - GAMMA) / (ZETA - GAMMA)).clamp(1e-6, 1 - 1e-6)
    return torch.log(share / (1 - share))


@dataclass(frozen=True, eq=False)
class RoundingVariable:
    """Learnable rounding of the last term of one layer; earlier terms stay as they are."""

    alpha: Tensor  # flattened weight shape (rows, columns), requires grad
    floor: Tensor  # floor(residual / scale)
    scale: Tensor  # (rows, 1)
    fixed: Tensor  # value of the earlier terms
    terms: tuple[Term, ...]
    shape: tuple[int, ...]

    @property
    def limit(self) -> int:
        """Codes lie in -limit - 1..limit."""
        return 2 ** (self.terms[-1].bits - 1) - 1

    def soft(self) -> Tensor:
        """The h of every weight."""
        return rectified_sigmoid(self.alpha)

    def soft_weight(self) -> Tensor:
        """Differentiable weight."""
        codes = (self.floor + self.soft()).clamp(-self.limit - 1, self.limit)
        return (self.fixed + codes * self.scale).reshape(self.shape)

    def hard_terms(self) -> tuple[Term, ...]:
        """Terms with the rounding decided: up where alpha >= 0."""
        codes = (self.floor + (self.alpha.detach() >= 0)).clamp(-self.limit - 1, self.limit)
        return (*self.terms[:-1], replace(self.terms[-1], codes=codes.to(self.terms[-1].codes.dtype)))


def rounding_variable(weight: Tensor, terms: tuple[Term, ...]) -> RoundingVariable:
    """Variables for a float weight and the terms that now approximate it; the last term must be dense."""
    last = terms[-1]
    if last.rows is not None or last.cols is not None or last.bits < 2:
        raise QuantError("adaround: the last term must cover the whole weight with 2 or more bits")
    flat = weight.detach().reshape(last.codes.shape).float()
    fixed = (
        weight_of(terms[:-1], (flat.shape[0], flat.shape[1])) if len(terms) > 1 else torch.zeros_like(flat)
    )
    scale = last.scale[:, None]
    position = (flat - fixed) / scale
    floor = torch.floor(position)
    alpha = inverse_rectified_sigmoid(position - floor).requires_grad_()
    return RoundingVariable(alpha, floor, scale, fixed, terms, tuple(weight.shape))
