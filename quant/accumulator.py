"""Largest sum of products that a scheme can reach in one layer, estimated before anything is quantized.

An accumulator of b bits holds up to 2^(b-1) - 1. A sum is at most the largest row sum of absolute weight codes times
the largest distance of an activation code from its zero point. What quantizing makes of the codes is checked
exactly afterwards (`quant.qlayer.check_accumulator`); a layer should not be offered what fails there.
"""

import math

from torch import Tensor

from quant.scheme import Scheme

CLIPPED = 1.1
"""Codes grow where a range is clipped: least squares keeps more than nine tenths of the range at 8 bits and above."""


def worst_sum(scheme: Scheme, depth: int, weight: Tensor | None = None) -> float:
    """Of a product with a weight; without its values, of rows as Gaussian ones (`quant.gaussian`) have them."""
    if scheme.weight_bits is None or scheme.act_bits is None:
        return 0.0
    first, *later = scheme.term_bits
    sums = [_row_sum(first, depth, weight), *(float(depth * 2 ** (bits - 1)) for bits in later)]
    return max(sums) * (2**scheme.act_bits - 1)


def worst_matmul_sum(scheme: Scheme, depth: int) -> float:
    """Of a product of two activations, whose codes may all be the largest."""
    if scheme.weight_bits is None or scheme.act_bits is None:
        return 0.0
    return float(depth) * (2**scheme.weight_bits - 1) * (2**scheme.act_bits - 1)


def _row_sum(bits: int, depth: int, weight: Tensor | None) -> float:
    """Largest sum of absolute codes over the rows of a weight, each with a range of its own."""
    largest = 2 ** max(bits - 1, 1) - 1
    if weight is None:
        deviations = math.sqrt(2 * math.log(2 * max(2, depth)))
        return depth * largest * min(1.0, CLIPPED * math.sqrt(2 / math.pi) / deviations)
    rows = weight.detach().flatten(1).abs().float()
    shares = rows / rows.amax(1, keepdim=True).clamp(min=1e-30)
    return float((CLIPPED * shares).clamp(max=1).sum(1).max()) * largest
