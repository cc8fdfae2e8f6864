"""Expansion of inputs as well as weights (methods.md 2.4): x ~ sum_j a_j X_j, W x ~ sum_(k,j) W_k X_j.

The product of term k and term j shrinks like (2^bw - 1)^-(k-1) (2^bx - 1)^-(j-1); products with k + j > K + 1
are of the order of what the kept ones leave, and are dropped.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.expansion import Expansion


def expand_input(value: Tensor, bits: int, order: int) -> list[tuple[Tensor, float]]:
    """Codes and scale of each order, one scale per tensor, cells that tile the range."""
    if bits < 2 or order < 1:
        raise QuantError(
            f"input expansion with {bits} bits and order {order}: use 2 or more bits, order 1 or more"
        )
    cells = 2.0**bits - 1
    largest = float(value.abs().max()) if value.numel() else 0.0
    scale = 2 * largest / cells if largest > 1e-30 else 1.0
    rest, found = value.to(torch.float64), []
    for _ in range(order):
        codes = torch.round(rest / scale).clamp(-(cells - 1) / 2, (cells - 1) / 2)
        rest = rest - codes * scale
        found.append((codes.to(torch.int16), scale))
        scale /= cells
    return found


def kept_pairs(weight_order: int, input_order: int) -> list[tuple[int, int]]:
    """Pairs (k, j), from 1, of the products that are computed."""
    last = max(weight_order, input_order) + 1
    return [(k, j) for k in range(1, weight_order + 1) for j in range(1, input_order + 1) if k + j <= last]


def expanded_product(weight: Expansion, inputs: Sequence[tuple[Tensor, float]]) -> Tensor:
    """W x from the kept pairs, each an integer product; inputs (N, I), result (N, O) in float64."""
    total = torch.zeros(inputs[0][0].shape[0], weight.matrix[0], dtype=torch.float64)
    dense = [term.dense(weight.matrix) for term in weight.terms]
    for k, j in kept_pairs(len(dense), len(inputs)):
        codes, scale = inputs[j - 1]
        product = codes.to(torch.int64) @ dense[k - 1].codes.to(torch.int64).T
        total += product.to(torch.float64) * scale * dense[k - 1].scale.to(torch.float64)
    return total
