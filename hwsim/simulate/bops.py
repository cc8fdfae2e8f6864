"""Bit operations of a layer by every usual definition; papers mean different things by the same word.

* ``product``: MACs · b_w · b_a (van Baalen et al., Bayesian Bits, NeurIPS 2020; Yao et al., HAWQ-V3, ICML 2021).
  The planner's limit and all reports use this one.
* ``accumulate``: MACs · (b_w · b_a + b_w + b_a + log2 k), additions in the accumulator included (Baskin et al., UNIQ,
  TOCS 2021); k is the length of the sum.
* ``operations``: twice ``product``: a multiplication and an addition each count.
* ``float32_share``: ``product`` over the same layer in 32-bit float (MACs · 32 · 32), so that 1 is "not quantized".

Every term of an expansion counts with its own width and the share of rows or columns that it keeps.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.simulate.pricing import scheme_terms
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer

FLOAT_BITS = 32


@dataclass(frozen=True)
class BitOperations:
    """One layer by each definition."""

    product: int
    accumulate: float
    operations: int
    float32_share: float


def bit_operations(layer: "Layer", scheme: Scheme) -> BitOperations:
    """Bit operations of one product layer in one scheme; float operands have 32 bits."""
    act_bits = scheme.act_bits or FLOAT_BITS
    product, accumulate = 0, 0.0
    for n, groups, k, bits in scheme_terms(scheme, layer.n, layer.groups, layer.k):
        weight_bits = bits or FLOAT_BITS
        macs = layer.batch * groups * layer.m * n * k
        product += macs * weight_bits * act_bits
        accumulate += macs * (weight_bits * act_bits + weight_bits + act_bits + math.log2(k))
    in_float = layer.batch * layer.groups * layer.m * layer.n * layer.k * FLOAT_BITS**2
    return BitOperations(product, accumulate, 2 * product, product / in_float)
