"""AdaRound: learn for each weight whether to round down or up (rectified sigmoid, PD-Quant's constants).

``h(alpha) = clip(1.2 sigmoid(alpha) - 0.1, 0, 1)``, ``W_int = floor(W / s) + h``; alpha starts where h equals the
fractional part, so the soft weight starts at the float weight; hard rounding is up exactly where alpha >= 0.
For a K-term layer the last order's residual is what is rounded, or that of the last order that covers the whole
weight: in a sparse one there is little to choose.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence
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
    """Learnable rounding of one term of a layer; the others stay as they are."""

    alpha: Tensor  # flattened weight shape (rows, columns), requires grad
    floor: Tensor  # floor(residual / scale)
    scale: Tensor  # (rows, 1)
    fixed: Tensor  # value of the other terms
    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    learned: int = -1  # which of the terms

    @property
    def limit(self) -> int:
        """Codes lie in -limit - 1..limit."""
        return 2 ** (self.terms[self.learned].bits - 1) - 1

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
        return with_codes(self.terms, self.learned, codes.to(self.terms[self.learned].codes.dtype))


def learned_term(terms: Sequence[Term]) -> int:
    """Number of the last term that covers the whole weight with 2 or more bits: the one whose rounding is learned."""
    dense = [i for i, term in enumerate(terms) if term.rows is None and term.cols is None and term.bits >= 2]
    if not dense:
        raise QuantError("adaround: no term covers the whole weight with 2 or more bits")
    return dense[-1]


def with_codes(terms: Sequence[Term], number: int, codes: Tensor) -> tuple[Term, ...]:
    """The terms with other codes in one of them."""
    changed = list(terms)
    changed[number] = replace(terms[number], codes=codes)
    return tuple(changed)


def rounding_variable(weight: Tensor, terms: tuple[Term, ...]) -> RoundingVariable:
    """Variables for a float weight and the terms that now approximate it."""
    number = learned_term(terms)
    term, others = terms[number], (*terms[:number], *terms[number + 1 :])
    flat = weight.detach().reshape(term.codes.shape).float()
    fixed = weight_of(others, (flat.shape[0], flat.shape[1])) if others else torch.zeros_like(flat)
    scale = term.scale[:, None]
    position = (flat - fixed) / scale
    floor = torch.floor(position)
    alpha = inverse_rectified_sigmoid(position - floor).requires_grad_()
    return RoundingVariable(alpha, floor, scale, fixed, terms, tuple(weight.shape), number)
