"""Gain of a quantized layer: restores the spread of its output, as Bias Compensation does the mean (methods.md 9.4).

A rounding of least squares shrinks: what the codes cannot follow is left out, so the output varies less than the
float one, and every layer on the quantized path takes its share. A bias alone then does harm. It puts the outputs
back on their mean, which before a ReLU mostly lies below zero, and the shrunken spread no longer reaches across:
at 2 bits ResNet-20 goes silent, with the right mean in every layer. One factor a channel (or one for the whole
layer, less noisy) restores the spread and folds into the row scales of the weights, at no cost.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from quant.methods.bias_compensation import in_cache
from quant.terms import Term

Gain = Literal["none", "layer", "channel"]
"""One factor a layer (geometric mean of its channels') or one an output channel."""
LIMIT = 4.0
"""A channel that lost more of its spread than this carries no signal worth amplifying."""


def output_gain(pairs: Iterable[tuple[Tensor, Tensor]], axis: int, gain: Gain) -> Tensor:
    """Deviation of the float output over that of the quantized one, by channel: float32 (C,)."""
    count, sums = 0, None
    for pair in pairs:
        rest = [dim for dim in range(pair[0].dim()) if dim != axis]
        for parts in in_cache(*pair):
            wide = [values.double() for values in parts]
            # the norm over these axes would take five times as long as the sum of squares
            found = torch.stack(
                [
                    torch.stack([values.sum(rest) for values in wide]),
                    torch.stack([values.square().sum(rest) for values in wide]),
                ]
            )
            sums = found if sums is None else sums + found
        count += pair[0].numel() // pair[0].shape[axis]
    assert sums is not None, "every pass has a batch"
    mean, square = sums / count
    variance = square - mean.square()
    # what rounding errors of the sums can make of a constant is no spread
    live = (variance > 1e-9 * square).all(0)
    ratio = torch.where(live, variance[0] / torch.where(live, variance[1], 1.0), 1.0)
    factor = ratio.sqrt().clamp(1 / LIMIT, LIMIT)
    if gain == "layer":
        factor = factor.log().mean().exp().expand_as(factor)
    return factor.float().contiguous()


def amplified(terms: Sequence[Term], gain: Tensor) -> tuple[Term, ...]:
    """The terms of a weight whose rows are multiplied by a gain: codes stay, scales take it."""
    return tuple(
        replace(term, scale=term.scale * (gain if term.rows is None else gain[term.rows.long()]))
        for term in terms
    )
