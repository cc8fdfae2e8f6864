"""What quantization errors can at most be: bounds that hold for every weight and input, never fitted.

Layer (methods.md 2.2, tight form): with B = 2^b - 1 and a start that tiles the row's range, n terms leave at
most max|w| * B^-n; in general `reach` below. Sparse orders: the row with the fewest terms decides. Network
(safe form): for 1-Lipschitz activations

    |F - F'| <= sum_l (prod_(j>l) |W'_j|) * (|E_l| |h_(l-1)| + |W'_l| |d_l|)

with E_l the weight error, h the float activations and d the error from quantizing the input of layer l.
Ensemble: the telescoped form misses only cross terms between residual groups; the bound follows from those of
the whole networks by the triangle inequality.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.expansion import SMALLEST, Expansion

EPSILON = 2.0**-23


def row_bound(expansion: Expansion, weight: Tensor) -> Tensor:
    """Largest weight error possible in each row, float64, from scales and row maxima alone.

    A row that received terms with scales s_1..s_n (each at least 2^b - 1 times, by the paper's rule
    2 (2^(b-1) - 1) times, the next) leaves at most s_n / 2, except beyond its reach n_max * sum s_k, where
    it leaves what is missing. A small multiple of the float32 rounding of the stored scales is added.
    """
    flat = weight.detach().reshape(expansion.matrix).to(torch.float64)
    peak = flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
    bound = _least_expanded(expansion, peak)
    return bound + peak * (2 * EPSILON * len(expansion.terms)) + SMALLEST


def _least_expanded(expansion: Expansion, peak: Tensor) -> Tensor:
    """Bound without rounding allowance."""
    last = peak.clone()  # no term: everything is left
    reach = torch.zeros_like(peak)
    widest = torch.zeros_like(peak)
    by_columns = any(term.cols is not None for term in expansion.terms)
    for order, term in enumerate(expansion.terms):
        if by_columns and order and term.cols is not None:
            break  # the columns left out of this and, perhaps, all later orders decide
        rows = slice(None) if term.rows is None else term.rows.long()
        scale = term.scale.to(torch.float64)
        if term.bits == 1:
            # |r| <= last becomes | |r| - scale | <= max(last - scale, scale).
            last[rows] = torch.maximum(last[rows] - scale, scale)
            continue
        limit = 2 ** (term.bits - 1) - 1
        reach[rows] += limit * scale
        widest[rows] = scale
        last[rows] = torch.maximum(widest[rows] / 2, peak[rows] - reach[rows])
        if order == 0 and expansion.first_error is not None:
            last = expansion.first_error.clone()
    return last


def layer_bound(expansion: Expansion, weight: Tensor) -> float:
    """Largest weight error possible anywhere in the layer."""
    return float(row_bound(expansion, weight).max()) if expansion.matrix[0] else 0.0


def decay_bound(
    first_scale: Tensor, bits: int, terms: Tensor, *, centred: bool, offset: float = 0.5
) -> Tensor:
    """A priori bound `offset * s_1 * f^-(n-1)` of rows with `terms` terms (methods.md 2.2, 2.3).

    The factor f is 2^b - 1 for centred scales and 2 (2^(b-1) - 1) for max-abs scales; `offset` is 1/2 for
    rounding to nearest and 1 where a first-order operator may flip roundings. With flips the paper's max-abs
    scales decay by 2^(b-1) - 1 in the first step only, which `offset` = 1 accounts for.
    """
    factor = 2.0**bits - 1 if centred else 2.0 * (2 ** (bits - 1) - 1)
    return offset * first_scale * factor ** -(terms.to(torch.float64) - 1)


def network_bound(
    quantized: Sequence[Tensor],
    errors: Sequence[Tensor],
    input_norms: Sequence[float],
    input_errors: Sequence[float],
) -> float:
    """Bound on the 2-norm of the output error of a chain of layers with 1-Lipschitz activations.

    Args:
        quantized: quantized weights (O, I) in order.
        errors: weight errors E_l = W_l - W'_l.
        input_norms: largest 2-norm of the float input of each layer.
        input_errors: largest 2-norm of the error from quantizing that input; 0 for weight-only.
    """
    if not len(quantized) == len(errors) == len(input_norms) == len(input_errors):
        raise QuantError("network bound: give one weight, error, input norm and input error per layer")
    total = 0.0
    for weight, error, size, noise in zip(quantized, errors, input_norms, input_errors, strict=True):
        gain = spectral_norm(weight)
        total = gain * (total + noise) + spectral_norm(error) * size
    return total


def weight_error_norm(rows: int, columns: int, largest: float) -> float:
    """Bound on the spectral norm of a weight error from its largest entry."""
    return (rows * columns) ** 0.5 * largest


def spectral_norm(matrix: Tensor) -> float:
    """Largest singular value, exact in float64 up to rounding."""
    if matrix.numel() == 0:
        return 0.0
    return float(torch.linalg.matrix_norm(matrix.reshape(len(matrix), -1).to(torch.float64), ord=2))


def ensemble_bound(full: float, members: Sequence[float], base: float) -> float:
    """Bound on the gap between the expanded network and its telescoped ensemble.

    From bounds on the distance to the float network: of the expanded network (`full`), of each member
    (base plus one group) and of the base. F_ens = sum_m F_m - (P-1) F_base and the coefficients of the float
    network add up to one, so |F_K - F_ens| <= full + sum_m members + (P - 1) * base.
    """
    return full + sum(members) + (len(members) - 1) * base
